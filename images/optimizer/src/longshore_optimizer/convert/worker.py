"""The converting process: `python -m longshore_optimizer.convert.worker`; one request, one answer."""

import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TextIO

from longshore.artifact.base import Wire

from longshore_optimizer.convert.lockdown import deny_network, limit_resources
from longshore_optimizer.convert.protocol import Refused
from longshore_optimizer.errors import Problem, Reason

_CPU_SECONDS = 1800
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_FILE_BYTES = 32 << 30

FRAMEWORKS = {
    "trees": frozenset({"lightgbm", "xgboost", "onnxmltools"}),
    "pytorch": frozenset({"torch", "torchvision", "onnxscript", "safetensors"}),
    "tensorflow": frozenset({"tensorflow", "tf2onnx", "keras", "h5py"}),
}
"""Modules that an extra brings: where one of them is missing, the extra is."""


def convert(request: dict[str, object]) -> Wire:
    """Dispatch by container; a Problem becomes an answer."""
    try:
        from longshore_optimizer.convert.registry import CONVERTERS, Order, converter

        entry = CONVERTERS[str(request["container"])]
        order = Order(
            model=Path(str(request["model"])),
            container=str(request["container"]),
            out=Path(str(request["out"])),
            samples=Path(str(request["samples"])) if request.get("samples") else None,
            allow_pickle=bool(request.get("allowPickle")),
            factory=str(request["factory"]) if request.get("factory") else None,
        )
        try:
            return converter(entry)(order)
        except ModuleNotFoundError as error:
            if entry.extra is None or (error.name or "").split(".")[0] not in FRAMEWORKS[entry.extra]:
                raise
            return _not_installed(entry.extra, str(error.name), str(request.get("format", "model")))
    except Problem as problem:
        return Refused(reason=problem.reason, message=problem.message)
    except MemoryError:
        return Refused(
            reason=Reason.OUT_OF_MEMORY,
            message="no memory left while converting: give the Job a higher memory limit",
        )
    except Exception as error:  # noqa: BLE001 - converters raise anything; the user gets the last line of it
        traceback.print_exc(file=sys.stderr)
        return Refused(
            reason=Reason.CONVERSION_FAILED,
            message=f"converting to ONNX failed: {_said(error)}; "
            "export the model to ONNX yourself and deploy that",
        )


def _said(error: BaseException) -> str:
    """What went wrong first: PyTorch's exporter wraps it into advice to those who write exporters."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(_COLOUR.sub("", str(error)).split())
    return f"{type(error).__name__}: {words[:600]}"


def _not_installed(extra: str, module: str, what: str) -> Refused:
    return Refused(
        reason=Reason.UNSUPPORTED_FORMAT,
        message=f"this build cannot convert a {what} model, as it is without {module}: use the optimizer "
        f"image variant {extra!r}, install longshore-optimizer[{extra}], or export it to ONNX yourself",
    )


def main() -> None:
    """Lock the process down first: the model is hostile until proven otherwise."""
    answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    answer: Wire
    try:
        limit_resources(_CPU_SECONDS, _FILE_BYTES)
        deny_network()
    except OSError as error:
        answer = Refused(
            reason=Reason.CONVERSION_FAILED,
            message=f"this node cannot take the network from the converter ({error}): "
            "export the model to ONNX yourself",
        )
    else:
        answer = convert(request)
    answers.write(answer.model_dump_json(by_alias=True) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
