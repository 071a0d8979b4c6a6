"""Observes single channels of activations on calibration data: what pruning and smoothing decide on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from longshore_optimizer.data import batches, read
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import onnxfile

MOST_SAMPLES = 128
MOST_SECONDS = 60.0
_MOST_ROWS = 2048
"""Positions of one sample that enter second moments; neighbours in an image say nearly the same."""

_ROWS_AT_A_TIME = 256

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Channels:
    """What was seen of one tensor's channels.

    `most` (channels,) is the largest magnitude and `magnitude` (channels,) the mean one; `samples`
    (samples, channels) holds the mean of every sample, `second` (channels, channels) is E[x x^T].
    """

    most: Floats
    magnitude: Floats
    samples: Floats
    second: Floats


class _Sums:
    def __init__(self, channels: int) -> None:
        self.count = 0
        self.rows = 0
        self.most = np.zeros(channels)
        self.magnitude = np.zeros(channels)
        self.samples: list[Floats] = []
        self.second = np.zeros((channels, channels))
        self.waiting: list[Floats] = []

    def add(self, values: Floats, samples: int, rng: np.random.Generator, *, second: bool) -> None:
        absolute = np.abs(values)
        self.most = np.maximum(self.most, absolute.max(axis=0))
        self.magnitude += absolute.sum(axis=0)
        self.count += len(values)
        if len(values) % samples == 0:
            self.samples.extend(values.reshape(samples, -1, values.shape[1]).mean(axis=1))
        if not second:
            return
        if len(values) > _MOST_ROWS:
            values = values[rng.choice(len(values), _MOST_ROWS, replace=False)]
        self.rows += len(values)
        # Few rows at a time would cost a pass over all second moments each.
        self.waiting.append(values)
        if sum(map(len, self.waiting)) >= _ROWS_AT_A_TIME:
            self._multiply()

    def _multiply(self) -> None:
        if self.waiting:
            values = np.concatenate(self.waiting)
            self.second += values.T @ values
            self.waiting.clear()

    def result(self) -> Channels:
        self._multiply()
        return Channels(
            self.most,
            self.magnitude / max(self.count, 1),
            np.array(self.samples),
            self.second / max(self.rows, 1),
        )


def observe(
    model: onnx.ModelProto,
    wanted: Mapping[str, int],
    data: Path,
    scratch: Path,
    threads: int,
    *,
    second: bool = False,
) -> dict[str, Channels]:
    """Run calibration data; `wanted` gives the axis of the channels (negative) for each float32 tensor.

    Without `second`, second moments are zero. Texts, and tensors whose channels vary in number, are left out.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    produced = {o for node in copy.graph.node for o in node.output if o}
    present = {o.name for o in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
        for n in wanted
        if n in produced and n not in present
    )
    augmented = scratch / "channels.onnx"
    onnxfile.save(copy, augmented)
    session = open_session(augmented, threads, optimize=False)
    inputs = tensor_specs(session.get_inputs())
    names = [o.name for o in session.get_outputs() if o.name in wanted]
    fed = [i.name for i in inputs if i.name in wanted and i.dtype == "float32"]
    sums: dict[str, _Sums] = {}
    odd: set[str] = set()
    rng = np.random.default_rng(0)
    started = time.monotonic()
    for batch in batches(read(data, "calibration", inputs).head(MOST_SAMPLES), inputs):
        # Asked for no names, the runtime would give all outputs.
        results = session.run(names, batch.feeds) if names else []
        values: dict[str, Any] = dict(zip(names, results, strict=True))
        values |= {n: batch.feeds[n] for n in fed}
        for name, value in values.items():
            if value.dtype.kind not in "fiub" or value.ndim < -wanted[name] or not value.size:
                odd.add(name)
                continue
            rows = np.moveaxis(value, wanted[name], -1).reshape(-1, value.shape[wanted[name]])
            seen = sums.setdefault(name, _Sums(rows.shape[1]))
            if len(seen.most) != rows.shape[1] or not np.isfinite(rows).all():
                odd.add(name)
                continue
            seen.add(rows.astype(np.float64), batch.rows, rng, second=second)
        if time.monotonic() - started > MOST_SECONDS:
            break
    augmented.unlink()
    return {n: s.result() for n, s in sums.items() if n not in odd}
