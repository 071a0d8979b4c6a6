"""ONNX Runtime's own defaults beside what was chosen: same data, same gate, timed in the same rounds."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from longshore.api.optimize import Metric
from longshore_optimizer.data import batches, read
from longshore_optimizer.decide import Latency
from longshore_optimizer.measure import outputs as outputs_file
from longshore_optimizer.measure.latency import time_models
from longshore_optimizer.measure.process import Cores
from longshore_optimizer.measure.protocol import Loaded, Predicted
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.metrics import Evaluator, Outputs

CALIBRATION_SAMPLES = 64
TURNS = 3
"""Of eleven rounds each, every one in processes of its own."""


def build(model: Path, calibration: Path, folder: Path) -> dict[str, Path]:
    """Quantize with every setting left as it is; a default that cannot quantize the model is left out."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._rows = _feeds(model, calibration)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._rows, None)

    made = {}
    for name in ("quantize_dynamic", "quantize_static"):
        out = folder / f"{name}.onnx"
        try:
            if name == "quantize_dynamic":
                quantize_dynamic(model, out)
            else:
                quantize_static(model, out, Reader())
        except Exception as error:  # noqa: BLE001 - what a default cannot do is a result, too
            print(f"{name} fails: {str(error)[:200]}", flush=True)
            continue
        made[name] = out
    return made


def _feeds(model: Path, calibration: Path) -> Iterator[dict[str, Any]]:
    from longshore_optimizer.measure.session import open_session, tensor_specs

    inputs = tensor_specs(open_session(model, 1).get_inputs())
    for batch in batches(read(calibration, "calibration", inputs).head(CALIBRATION_SAMPLES), inputs):
        yield batch.feeds


def compare(
    original: Path,
    chosen: Path | None,
    defaults: dict[str, Path],
    evaluation: Path,
    metric: Metric,
    cores: Cores,
    seed: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """Give how many times faster than the original every model is, and the bound of the drop at 95 % of each
    faster default.

    The factor is the median over rounds of the ratio of the rounds' medians: neighbours in time compare, so
    that a busy spell hits both. `chosen` is None where it is the original: timing a model against itself
    tells only the noise.
    """
    models = {"original": original, **({"chosen": chosen} if chosen is not None else {}), **defaults}
    ratios: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(TURNS):
        with Workers(cores) as workers:
            measured = time_models(models, "original", evaluation, workers, seed=seed + turn)
        base = measured["original"]
        for name, latency in measured.items():
            if isinstance(latency, Latency) and isinstance(base, Latency):
                ratios[name] += [a / b for a, b in zip(base.rounds, latency.rounds, strict=True)]
    faster = {name: statistics.median(values) for name, values in ratios.items() if values}
    faster.setdefault("chosen", 1.0)
    with np.load(evaluation) as loaded:
        labels = loaded["labels"] if "labels" in loaded.files else None
    reference = _predict(original, evaluation, cores)
    evaluator = Evaluator(metric, labels, reference, 0.95, seed)
    exact = evaluator.evaluate(reference)
    uppers = {}
    for name, path in defaults.items():
        # Whoever would serve a default that is slower serves the original: no need to know how it answers.
        if faster.get(name, 0.0) > 1:
            given = evaluator.evaluate(_predict(path, evaluation, cores))
            uppers[name] = evaluator.drop(exact, given).upper
    return faster, uppers


def _predict(model: Path, evaluation: Path, cores: Cores) -> Outputs:
    out = evaluation.with_name(f"{model.stem}.outputs.npz")
    with Workers(cores) as workers, workers.start() as worker:
        worker.ask(Loaded, 300, operation="load", model=str(model), threads=cores.threads)
        worker.ask(
            Predicted, 600, operation="predict", out=str(out), batch=1, limit=None, data=str(evaluation)
        )
    values = outputs_file.load(out)
    out.unlink()
    return values
