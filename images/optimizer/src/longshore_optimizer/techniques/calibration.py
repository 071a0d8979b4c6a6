"""Observes activations on calibration data: range and histogram of every float tensor, in one file for all.

Ranges come from the same statistics by several rules, so that trying another calibrator costs no second run.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from longshore_optimizer.data import batches, read
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import onnxfile

BINS = 2048
MOST_SAMPLES = 256
MOST_SECONDS = 120.0
_LEVELS = 128

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Observed:
    """What was seen of one tensor: least and greatest value, histogram of `BINS` equal bins between them."""

    low: float
    high: float
    histogram: Floats


def observe(model_path: Path, data: Path, scratch: Path, threads: int) -> dict[str, Observed]:
    """Run the calibration data through the model; results are kept in `scratch` for the next candidate."""
    cache = scratch / "calibration.json"
    if cache.is_file():
        stored = json.loads(cache.read_text())
        return {k: Observed(v[0], v[1], np.array(v[2])) for k, v in stored.items()}
    observed = _observe(model_path, data, scratch, threads)
    partial = cache.with_suffix(".partial")
    partial.write_text(json.dumps({k: [o.low, o.high, o.histogram.tolist()] for k, o in observed.items()}))
    partial.rename(cache)
    return observed


def _observe(model_path: Path, data: Path, scratch: Path, threads: int) -> dict[str, Observed]:
    model = onnxfile.load(model_path)
    names = float_tensors(model)
    outputs = {o.name for o in model.graph.output}
    # Without a type: the runtime infers what shape inference could not.
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in outputs)
    augmented = scratch / "augmented.onnx"
    onnxfile.save(model, augmented)
    session = open_session(augmented, threads, optimize=False)
    inputs = tensor_specs(session.get_inputs())
    dataset = read(data, "calibration", inputs).head(MOST_SAMPLES)
    asked = set(names)
    wanted = [o.name for o in session.get_outputs() if o.name in asked and o.type == "tensor(float)"]
    fed = [i.name for i in inputs if i.dtype == "float32"]

    def values(feeds: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
        results = session.run(wanted, feeds)
        seen = dict(zip(wanted, results, strict=True)) | {n: feeds[n] for n in fed}
        return {n: v for n, v in seen.items() if v.size}

    started = time.monotonic()
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    used = 0
    for batch in batches(dataset, inputs):
        for name, value in values(batch.feeds).items():
            low[name] = min(low.get(name, np.inf), float(value.min()))
            high[name] = max(high.get(name, -np.inf), float(value.max()))
        used += 1
        if time.monotonic() - started > MOST_SECONDS / 2:
            break
    histograms = {n: np.zeros(BINS) for n in low}
    for number, batch in enumerate(batches(dataset, inputs)):
        if number >= used:
            break
        for name, value in values(batch.feeds).items():
            if high[name] > low[name] and np.isfinite((low[name], high[name])).all():
                histograms[name] += np.histogram(value, BINS, (low[name], high[name]))[0]
    augmented.unlink()
    return {n: Observed(low[n], high[n], histograms[n]) for n in low if np.isfinite((low[n], high[n])).all()}


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the activations of the main graph that are float32, or of a type not inferred."""
    typed = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    produced = [o for node in model.graph.node for o in node.output if o]
    return [name for name in produced if typed.get(name, TensorProto.FLOAT) == TensorProto.FLOAT]


def ranges(observed: dict[str, Observed], rule: str) -> dict[str, tuple[float, float]]:
    """Give each tensor's range by a rule: `minmax`, `percentile:99.99`, `entropy` or `mse`."""
    kind, _, argument = rule.partition(":")
    if kind == "minmax":
        return {n: (o.low, o.high) for n, o in observed.items()}
    if kind == "percentile":
        return {n: percentile_range(o, float(argument)) for n, o in observed.items()}
    if kind == "entropy":
        return {n: entropy_range(o) for n, o in observed.items()}
    if kind == "mse":
        return {n: squared_error_range(o) for n, o in observed.items()}
    raise ValueError(f"unknown calibration rule {rule!r}")


def percentile_range(seen: Observed, percentile: float) -> tuple[float, float]:
    """Cut both tails so that `percentile` per cent of the values stay inside."""
    total = seen.histogram.sum()
    if total == 0:
        return seen.low, seen.high
    share = np.cumsum(seen.histogram) / total
    tail = (1 - percentile / 100) / 2
    width = (seen.high - seen.low) / BINS
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1 - tail, side="left"))
    low = seen.low + first * width if seen.low < 0 else seen.low
    high = seen.low + (min(last, BINS - 1) + 1) * width
    return low, max(high, low)


def entropy_range(seen: Observed) -> tuple[float, float]:
    """Threshold with the least Kullback-Leibler divergence between values and quantized values.

    The method of TensorRT (Migacz 2017, "8-bit Inference with TensorRT") on magnitudes, with 128 levels.
    """
    limit = max(abs(seen.low), abs(seen.high))
    if limit == 0 or seen.histogram.sum() == 0:
        return seen.low, seen.high
    centres = seen.low + (np.arange(BINS) + 0.5) * (seen.high - seen.low) / BINS
    magnitudes = np.histogram(np.abs(centres), BINS, (0, limit), weights=seen.histogram)[0]
    best, threshold = np.inf, limit
    for stop in range(_LEVELS, BINS + 1, _LEVELS // 4):
        reference = magnitudes[:stop].copy()
        reference[-1] += magnitudes[stop:].sum()
        groups = np.array_split(np.arange(stop), _LEVELS)
        quantized = np.zeros(stop)
        for group in groups:
            part = magnitudes[group]
            filled = part > 0
            if filled.any():
                quantized[group[filled]] = part.sum() / filled.sum()
        divergence = _divergence(reference, quantized)
        if divergence < best:
            best, threshold = divergence, limit * stop / BINS
    return max(seen.low, -threshold), min(seen.high, threshold)


def _divergence(reference: Floats, quantized: Floats) -> float:
    p = reference / reference.sum()
    total = quantized.sum()
    if total == 0:
        return float(np.inf)
    q = quantized / total
    both = p > 0
    return float(np.sum(p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))))


def squared_error_range(seen: Observed) -> tuple[float, float]:
    """Range with the least mean squared error of 8-bit rounding and clipping, over 32 shrunken ranges."""
    if seen.high <= seen.low or seen.histogram.sum() == 0:
        return seen.low, seen.high
    centres = seen.low + (np.arange(BINS) + 0.5) * (seen.high - seen.low) / BINS
    best, chosen = np.inf, (seen.low, seen.high)
    for shrink in np.linspace(1.0, 0.2, 32):
        low, high = seen.low * shrink if seen.low < 0 else seen.low, seen.high * shrink
        step = (max(high, 0) - min(low, 0)) / 255
        if step <= 0:
            continue
        rounded = np.clip(np.round(centres / step) * step, min(low, 0), max(high, 0))
        error = float(np.sum(seen.histogram * (centres - rounded) ** 2))
        if error < best:
            best, chosen = error, (low, high)
    return chosen
