"""Runs a source model and what it became on the same samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer.convert.arguments import BATCH, Material
from longshore_optimizer.convert.parity import TOLERANCE, Difference, compare, together
from longshore_optimizer.data import Batch, batches
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.measure.outputs import collect
from longshore_optimizer.measure.session import open_session

Array = NDArray[Any]


def run_both(
    source: Callable[..., Sequence[Array]],
    out: Path,
    material: Material,
    rows: int | None,
    steps: Mapping[str, float] | None = None,
) -> tuple[list[Difference], int]:
    """Compare every output in batches; gives the differences and the number of samples.

    `source` takes one array an input and answers in the order of the ONNX outputs. `rows` is the batch size
    that what was written is bound to, None for any. `steps` is the absolute error that an output of that name
    may have although it is larger than the usual tolerance.

    Raises:
        Problem: ParityFailed for other outputs or shapes.
    """
    session = open_session(out, 1)
    inputs = {i.name for i in session.get_inputs()}
    outputs = [o.name for o in session.get_outputs()]
    expected: list[tuple[Batch, Sequence[Array]]] = []
    converted: list[tuple[Batch, Sequence[Array]]] = []
    for batch in batches(material.dataset, material.inputs, rows or BATCH):
        told = replace(batch, feeds={})
        part = [np.ascontiguousarray(batch.feeds[spec.name]) for spec in material.inputs]
        expected.append((told, source(*part)))
        feeds = {n: a for n, a in batch.feeds.items() if n in inputs}
        converted.append((told, [np.asarray(v) for v in session.run(None, feeds)]))
    given = len(expected[0][1])
    if given != len(outputs):
        raise Problem(
            Reason.PARITY_FAILED,
            f"the converted model has {len(outputs)} outputs, the source gives {given} tensors: "
            "export the model to ONNX yourself",
        )
    before, after = collect(outputs, expected), collect(outputs, converted)
    differences = [_compared(n, before[n], after[n], (steps or {}).get(n, 0.0)) for n in outputs]
    return differences, material.dataset.count


def _compared(name: str, source: Sequence[Array], converted: Sequence[Array], step: float) -> Difference:
    if len({a.shape for a in source}) == len({a.shape for a in converted}) == 1 and len(source) == len(
        converted
    ):
        return compare(name, np.stack(source), np.stack(converted), TOLERANCE, step)
    if len(source) != len(converted):
        raise Problem(
            Reason.PARITY_FAILED,
            f"the converted output {name!r} has {len(converted)} rows where the source gives {len(source)}: "
            "export the model to ONNX yourself",
        )
    pairs = zip(source, converted, strict=True)
    return together([compare(name, a[None], b[None], TOLERANCE, step) for a, b in pairs])
