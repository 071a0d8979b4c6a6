"""Whether a candidate's answers are of the original's kind, and whether they are the same."""

import numpy as np

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.metrics import Outputs, agreement

LOSSLESS_TOLERANCE = 1e-4
"""Largest error of a lossless rewrite relative to an output's largest value: float32 sums in other orders."""


def lossless_difference(reference: Outputs, values: Outputs) -> float:
    """Largest error relative to each sample's largest value; infinite where something is not comparable."""
    worst = 0.0
    for name, wanted in reference.items():
        given = values.get(name)
        if given is None or len(given) != len(wanted):
            return float("inf")
        for a, b in zip(wanted, given, strict=True):
            first, second = np.asarray(a), np.asarray(b)
            if first.shape != second.shape:
                return float("inf")
            if first.dtype.kind != "f":
                if not np.array_equal(first, second):
                    return float("inf")
                continue
            x, y = first.astype(np.float64), second.astype(np.float64)
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            if same.all():
                continue
            scale = float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0))
            error = float(np.max(np.abs(x - y)[~same]))
            worst = max(worst, error / max(scale, 1e-6) if np.isfinite(error) else float("inf"))
    return worst


def check_shapes(reference: Outputs, values: Outputs) -> None:
    """Compare names and shapes.

    Raises:
        Problem: ParityFailed.
    """
    if list(reference) != list(values):
        raise Problem(
            Reason.PARITY_FAILED, f"its outputs are {', '.join(values)}, not {', '.join(reference)}"
        )
    agreement(reference, values)
    for name, wanted in reference.items():
        for a, b in zip(wanted, values[name], strict=True):
            if np.asarray(a).shape != np.asarray(b).shape:
                raise Problem(
                    Reason.PARITY_FAILED, f"its output {name!r} has another shape than the original's"
                )
