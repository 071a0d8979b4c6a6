"""Converts in a child process and turns its answer, or its death, into a value or a Problem."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.convert.registry import CONVERTERS, NEEDS_PICKLE
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.measure.process import clean_environment
from longshore_optimizer.modeldir import Source

TIMEOUT = 1200.0


def convert(
    source: Source,
    out: Path,
    samples: Path | None,
    *,
    allow_pickle: bool,
    factory: str | None = None,
    timeout: float = TIMEOUT,
) -> Converted:
    """Write the ONNX form of a model to `out`.

    Raises:
        Problem: PickleNotAllowed, UnsupportedFormat, ConversionFailed, ParityFailed, OutOfMemory or
            DeadlineExceeded.
    """
    if source.container in NEEDS_PICKLE and not allow_pickle:
        raise Problem(
            Reason.PICKLE_NOT_ALLOWED,
            f"{source.path.name} is a pickle, and loading it runs code from the file: save it with "
            "skops.io.dump or "
            "export it to ONNX, or set allowPickle (--allow-pickle) if you trust the file",
        )
    if source.container not in CONVERTERS:
        raise Problem(
            Reason.UNSUPPORTED_FORMAT,
            f"{source.path.name} is a {source.format.value} model ({source.container}), which this build "
            "does not "
            "convert: export it to ONNX and deploy that",
        )
    request = {
        "model": str(source.path),
        "container": source.container,
        "format": source.format.value,
        "out": str(out),
        "samples": str(samples) if samples else None,
        "allowPickle": allow_pickle,
        "factory": factory,
    }
    try:
        # What frameworks leave in the directory for temporary files goes with the converter.
        with tempfile.TemporaryDirectory(prefix="longshore-convert-") as scratch:
            finished = subprocess.run(
                [sys.executable, "-m", "longshore_optimizer.convert.worker"],
                input=json.dumps(request).encode() + b"\n",
                capture_output=True,
                env=clean_environment() | {"TMPDIR": scratch},
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
    except subprocess.TimeoutExpired as error:
        raise Problem(
            Reason.DEADLINE_EXCEEDED,
            f"converting {source.path.name} took longer than {timeout:g} s: raise budget.time",
        ) from error
    if finished.returncode == -9:
        raise Problem(
            Reason.OUT_OF_MEMORY,
            "the converter was killed for lack of memory: raise optimize.resources' memory limit",
        )
    lines = finished.stdout.splitlines()
    if finished.returncode != 0 or not lines:
        tail = finished.stderr.decode(errors="replace").strip().splitlines()
        raise Problem(
            Reason.CONVERSION_FAILED,
            f"the converter died on {source.path.name}: {tail[-1][:300] if tail else 'it said nothing'}; "
            "export the "
            "model to ONNX yourself",
        )
    answer = json.loads(lines[-1])
    if "reason" in answer:
        raise Problem(Reason(answer["reason"]), answer["message"])
    return Converted.model_validate(answer)
