"""Converts one source model and compares answers on rows of its own; one outcome a model and form."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from longshore_optimizer.convert.protocol import Refused
from longshore_optimizer.convert.worker import convert
from longshore_optimizer.measure.session import open_session
from longshore_optimizer.modeldir import identify

BATCHES = (1, 3)
TOLERANCE = 1e-3
"""Of an output's largest value: what `convert.parity` allows, too."""

FLIPS = 0.01
"""Share of rows whose class may differ: a tree splits where a float32 lies on either side."""

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Outcome:
    """What became of a model: `error` is relative to an output's scale, None where nothing was converted."""

    family: str
    model: str
    form: str
    error: float | None
    reason: str
    seconds: float

    @property
    def right(self) -> bool:
        """Whether what was converted answers as its source."""
        return self.error is not None and self.error <= TOLERANCE


@dataclass(frozen=True)
class Source:
    """A saved model; `answer` gives the framework's outputs for rows, `samples` what a user would give.

    Of `labels`, only the first output is compared: scores come after it.
    """

    family: str
    model: str
    form: str
    path: Path
    rows: Callable[[int], Feeds]
    answer: Callable[[Feeds], Sequence[Array]]
    samples: Path | None = None
    pickled: bool = False
    labels: bool = False


def judge(source: Source, folder: Path, batches: Sequence[int] = BATCHES) -> Outcome:
    """Convert and compare."""
    started = time.monotonic()
    out = folder / "converted.onnx"
    identified = identify(source.path)
    told = convert(
        {
            "model": str(identified.path),
            "container": identified.container,
            "format": identified.format.value,
            "out": str(out),
            "samples": str(source.samples) if source.samples else None,
            "allowPickle": source.pickled,
            "factory": None,
        }
    )
    error: float | None = None
    if isinstance(told, Refused):
        reason = f"{told.reason}: {told.message}"
    else:
        reason = ""
        try:
            error = max(_error(source, out, rows) for rows in batches)
        except Exception as failure:  # noqa: BLE001 - what was converted must run on what its source takes
            error, reason = float("inf"), f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
    seconds = time.monotonic() - started
    return Outcome(source.family, source.model, source.form, error, reason, round(seconds, 1))


def _error(source: Source, out: Path, rows: int) -> float:
    session = open_session(out, 1)
    feeds = source.rows(rows)
    inputs = [i.name for i in session.get_inputs()]
    known = {n: feeds[n] if n in feeds else next(iter(feeds.values())) for n in inputs}
    outputs = [o.name for o in session.get_outputs()]
    if all(re.fullmatch(r"output_\d+", name) for name in outputs):
        # A TFLite file lists them in an order of its own.
        outputs.sort(key=lambda name: int(name.removeprefix("output_")))
    found, wanted = session.run(outputs, known), source.answer(feeds)
    if source.labels:
        found = found[:1]
    if len(found) != len(wanted):
        return float("inf")
    return max(_difference(np.asarray(f), np.asarray(w)) for f, w in zip(found, wanted, strict=True))


def _difference(found: Array, wanted: Array) -> float:
    if found.size != wanted.size:
        return float("inf")
    found = found.reshape(wanted.shape)
    if wanted.dtype.kind not in "fiub" or found.dtype.kind not in "fiub":
        return 0.0 if (found.astype(str) != wanted.astype(str)).mean() <= FLIPS else float("inf")
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if wanted.dtype.kind != "f":
        return 0.0 if (a != b).mean() <= FLIPS else float("inf")
    scale = max(float(np.abs(b).max(initial=0.0)), 1e-9)
    return float(np.abs(a - b).max(initial=0.0)) / scale


def tell(outcome: Outcome) -> None:
    """Print as one line of JSON, which the bench reads."""
    print(json.dumps(asdict(outcome)), flush=True)
