"""The samples that a converted model is compared on, as they lie in calibration data."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST = 1000
"""Most samples that are compared."""

LABELS = "labels"


def stored(path: Path | None, most: int = MOST) -> dict[str, Array]:
    """Give the first `most` samples of every array but the labels; empty without data."""
    if path is None:
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return {k: arrays[k][:most] for k in arrays.files if k != LABELS}
