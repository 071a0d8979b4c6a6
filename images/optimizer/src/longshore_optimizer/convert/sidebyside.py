"""Runs a source model and what it became on the same samples."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer.convert.arguments import BATCH
from longshore_optimizer.convert.parity import TOLERANCE, Difference, compare
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.measure.session import open_session

Array = NDArray[Any]


def run_both(
    source: Callable[[Sequence[Array]], Sequence[Array]],
    out: Path,
    arrays: Mapping[str, Array],
    rows: int | None,
    steps: Mapping[str, float] | None = None,
) -> tuple[list[Difference], int]:
    """Compare every output in batches; gives the differences and the number of samples.

    `source` takes the arrays in the order of `arrays` and answers in the order of the ONNX outputs. `rows` is
    the batch size that both are bound to, None for any. `steps` is the absolute error that an output of
    that name may have although it is larger than the usual tolerance.

    Raises:
        Problem: EmptyData for fewer samples than `rows`, ParityFailed for other outputs or shapes.
    """
    session = open_session(out, 1)
    inputs = {i.name for i in session.get_inputs()}
    outputs = [o.name for o in session.get_outputs()]
    count = min(len(a) for a in arrays.values())
    size = rows or BATCH
    expected: list[list[Array]] = []
    converted: list[list[Array]] = []
    for start in range(0, count, size):
        part = [np.ascontiguousarray(a[start : start + size]) for a in arrays.values()]
        if rows is not None and len(part[0]) < rows:
            break
        expected.append(list(source(part)))
        feeds = {n: p for n, p in zip(arrays, part, strict=True) if n in inputs}
        converted.append([np.asarray(v) for v in session.run(None, feeds)])
    if not expected:
        raise Problem(
            Reason.EMPTY_DATA,
            f"the model takes {rows} rows at once, and there are {count}: give more samples",
        )
    if len(expected[0]) != len(outputs):
        raise Problem(
            Reason.PARITY_FAILED,
            f"the converted model has {len(outputs)} outputs, the source gives {len(expected[0])} tensors: "
            "export the model to ONNX yourself",
        )
    differences = [
        compare(name, _joined(expected, i), _joined(converted, i), TOLERANCE, (steps or {}).get(name, 0.0))
        for i, name in enumerate(outputs)
    ]
    return differences, count


def _joined(answers: Sequence[Sequence[Array]], index: int) -> Array:
    return np.concatenate([np.atleast_1d(a[index]) for a in answers])
