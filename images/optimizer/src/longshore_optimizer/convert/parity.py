"""Compares a converted model with its source on the same samples. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.errors import Problem, Reason

Array = NDArray[Any]

TOLERANCE = 1e-3
"""Largest error relative to an output's own scale: float64 sources lose about 1e-6 a layer in float32."""

DISAGREEING_SHARE = 0.01
"""Share of samples that may differ: trees split on float32 thresholds, so a sample on a threshold may
flip."""

_FEW = 8
"""Of so many samples one may flip; of fewer none: it could be the only one."""


@dataclass(frozen=True)
class Difference:
    """How one output differs; `share` is that of samples outside the tolerance."""

    output: str
    absolute: float
    relative: float
    count: int
    share: float


def compare(
    name: str, source: Array, converted: Array, tolerance: float = TOLERANCE, step: float = 0.0
) -> Difference:
    """Compare one output, samples on axis 0.

    A value is wrong when its error is larger than `tolerance` of the output's scale and than `step`, the
    absolute error that the source's own resolution leaves.

    Raises:
        Problem: ParityFailed where the shapes differ.
    """
    source, converted = np.asarray(source), np.asarray(converted)
    if source.size == converted.size and source.shape != converted.shape:
        converted = converted.reshape(source.shape)
    if source.shape != converted.shape:
        raise Problem(
            Reason.PARITY_FAILED,
            f"the converted output {name!r} has shape {converted.shape}, the source gives {source.shape}: "
            "export the model to ONNX yourself",
        )
    n = max(len(source), 1)
    if source.dtype.kind not in "fiub" or converted.dtype.kind not in "fiub":
        wrong = (source.astype(str) != converted.astype(str)).reshape(n, -1).any(axis=1)
        return Difference(name, 0.0, 0.0, int(wrong.sum()), float(wrong.mean()))
    a, b = source.astype(np.float64), converted.astype(np.float64)
    error = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
    error = np.where(np.isnan(error), np.inf, error)
    scale = float(np.sqrt(np.nanmean(a**2))) if a.size else 0.0
    relative = error / max(scale, 1e-6)
    wrong = ((relative > tolerance) & (error > step)).reshape(n, -1).any(axis=1)
    return Difference(
        name,
        float(error.max(initial=0)),
        float(relative.max(initial=0)),
        int(wrong.sum()),
        float(wrong.mean()),
    )


def together(differences: Sequence[Difference]) -> Difference:
    """Sum up what was compared sample by sample."""
    return Difference(
        differences[0].output,
        max(d.absolute for d in differences),
        max(d.relative for d in differences),
        sum(d.count for d in differences),
        sum(d.share for d in differences) / len(differences),
    )


def judge(framework: str, samples: int, differences: list[Difference]) -> Converted:
    """Sum up, or stop where too many samples differ.

    Raises:
        Problem: ParityFailed.
    """
    worst = max(differences, key=lambda d: (d.share, d.relative))
    allowed = max(DISAGREEING_SHARE, 1.5 / samples if _FEW <= samples < 100 else 0.0)
    if worst.share > allowed:
        raise Problem(
            Reason.PARITY_FAILED,
            f"the converted model answers differently from {framework}: output {worst.output!r} on "
            f"{worst.count} of "
            f"{samples} samples, by at most {worst.absolute:.3g}; export the model to ONNX yourself and "
            "check it",
        )
    return Converted(
        framework=framework,
        samples=samples,
        max_absolute_error=max(d.absolute for d in differences),
        max_relative_error=max(d.relative for d in differences),
        disagreements=max(d.count for d in differences),
        worst_output=worst.output,
    )
