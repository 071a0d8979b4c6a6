"""Makes sure that the runtime can run a model before anything is made from it."""

import re
from dataclasses import dataclass
from pathlib import Path

from longshore_optimizer.data import TensorSpec
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.protobuf import Outline
from longshore_optimizer.measure.process import WorkerError
from longshore_optimizer.measure.protocol import Loaded
from longshore_optimizer.measure.workers import Workers

_UNREGISTERED = re.compile(
    r"(?:No Op registered for (?P<a>[\w.:-]+)|Fatal error: (?P<b>[\w.:-]+)\(-?\d+\) "
    r"is not a registered function/op"
    r"|Could not find an implementation for (?P<c>[\w.:-]+)\(\d+\)"
    r"|Failed to find kernel for (?P<d>[\w.:-]+))"
)
_DOMAIN = re.compile(r"domain[^\w]*(?P<domain>[\w.]+)", re.IGNORECASE)
LOAD_TIMEOUT = 600.0


@dataclass(frozen=True)
class Runnable:
    """A model that the runtime has loaded."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    load_ms: float


def load_problem(error: WorkerError, outline: Outline) -> Problem:
    """Say why the runtime refuses a model, naming the operator where one is missing."""
    text = " ".join(str(error).split())
    match = _UNREGISTERED.search(text)
    if match is not None:
        name = next(g for g in match.groups() if g)
        custom = sorted(f"{d}:{o}" for d, o in outline.operators if o == name.rsplit(":", 1)[-1] and d)
        shown = custom[0] if custom else name
        return Problem(
            Reason.UNSUPPORTED_OPERATOR,
            f"the model needs the operator {shown}, which ONNX Runtime lacks: export the model without it, "
            "or with "
            "standard operators",
        )
    foreign = sorted(
        f"{d}:{o}"
        for d, o in outline.operators
        if d not in ("", "ai.onnx.ml", "com.microsoft", "ai.onnx.training", "ai.onnx.preview.training")
        and not d.startswith("com.ms.")
        and (d, o) not in outline.functions
    )
    if foreign and ("is not a registered" in text or "domain" in text.lower()):
        return Problem(
            Reason.UNSUPPORTED_OPERATOR,
            f"the model needs the operator {foreign[0]}, which ONNX Runtime lacks: export the model "
            "without it, or "
            "with standard operators",
        )
    if error.kind == "OutOfMemory":
        return Problem(
            Reason.OUT_OF_MEMORY,
            "no memory left while loading the model: raise the memory limit in optimize.resources",
        )
    if error.kind == "Timeout":
        return Problem(
            Reason.DEADLINE_EXCEEDED, f"loading the model took over {LOAD_TIMEOUT:g} s: give the Job more CPU"
        )
    if "external" in text.lower() and ("escape" in text.lower() or "outside" in text.lower()):
        return Problem(
            Reason.EXTERNAL_DATA_ESCAPES,
            "the model's external data points outside its directory: save the model with its data beside it",
        )
    if "Unsupported model IR version" in text or ("opset" in text.lower() and "under development" in text):
        return Problem(
            Reason.UNSUPPORTED_OPERATOR,
            f"the model is newer than this ONNX Runtime ({text[:200]}): export it with an older opset",
        )
    return Problem(
        Reason.INVALID_MODEL,
        f"ONNX Runtime cannot load the model: {text[:400]}; export the model to ONNX again",
    )


def check_runnable(path: Path, outline: Outline, workers: Workers) -> Runnable:
    """Load a model in a process of its own.

    Raises:
        Problem: UnsupportedOperator, InvalidModel, OutOfMemory, DeadlineExceeded.
    """
    with workers.start() as worker:
        try:
            loaded = worker.ask(
                Loaded, LOAD_TIMEOUT, operation="load", model=str(path), threads=workers.cores.threads
            )
        except WorkerError as error:
            raise load_problem(error, outline) from error
    return Runnable(
        tuple(i.spec() for i in loaded.inputs), tuple(o.spec() for o in loaded.outputs), loaded.load_ms
    )
