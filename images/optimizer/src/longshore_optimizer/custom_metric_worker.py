"""The process that runs a user's metric."""

import importlib.util
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from longshore.artifact.base import Wire
from numpy.typing import NDArray

from longshore_optimizer.convert.lockdown import deny_network, limit_resources
from longshore_optimizer.custom_metric import RAISED, TIMEOUT, Dropped, Scored
from longshore_optimizer.measure import outputs as outputs_file
from longshore_optimizer.measure.protocol import Failure, Request
from longshore_optimizer.statistics import RESAMPLES, bootstrap_drop

Array = NDArray[Any]
Metric = Callable[[Mapping[str, Array], Array | None], Any]

_CPU_SECONDS = 1800
_FILE_BYTES = 1 << 30
_LEAST_RESAMPLES = 200
_JACKKNIFE = 201
"""Calls of a pair that the bootstrap makes besides its resamples."""


def load(path: Path) -> tuple[Metric, float]:
    """Import the user's file; gives the function and 1 where higher is better, else -1."""
    spec = importlib.util.spec_from_file_location("longshore_metric", path)
    if spec is None or spec.loader is None:
        raise TypeError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, "metric", None)
    if not callable(function):
        raise TypeError(f"{path.name} defines no function metric(outputs, labels)")
    return function, -1.0 if getattr(module, "LOWER_IS_BETTER", False) is True else 1.0


def evaluate(request: Request) -> Scored:
    """Call the function on everything."""
    function, sign = load(Path(request["function"]))
    count = int(request["count"])
    answer = _numbers(function(outputs_file.load(Path(request["outputs"])), _labels(request)), count)
    if answer.ndim == 0:
        return Scored(value=float(answer))
    return Scored(value=float(answer.mean()), scores=tuple(float(v) for v in sign * answer))


def drop(request: Request) -> Dropped:
    """Bound the loss by the paired bootstrap, calling the function on each resample."""
    function, sign = load(Path(request["function"]))
    first = outputs_file.load(Path(request["outputs"]))
    second = outputs_file.load(Path(request["candidate"]))
    labels = _labels(request)

    def statistic(index: NDArray[np.intp]) -> float:
        chosen = labels[index] if labels is not None else None
        before = _numbers(function({k: v[index] for k, v in first.items()}, chosen), len(index))
        after = _numbers(function({k: v[index] for k, v in second.items()}, chosen), len(index))
        return sign * (float(before.mean()) - float(after.mean()))

    count = int(request["count"])
    started = time.perf_counter()
    statistic(np.arange(count))
    once = time.perf_counter() - started
    affordable = int(0.7 * TIMEOUT / max(once, 1e-6)) - _JACKKNIFE
    bound = bootstrap_drop(
        statistic,
        count,
        float(request["confidence"]),
        int(request["seed"]),
        min(max(affordable, _LEAST_RESAMPLES), RESAMPLES),
    )
    return Dropped(estimate=bound.estimate, upper=bound.upper if math.isfinite(bound.upper) else None)


def _labels(request: Request) -> Array | None:
    return outputs_file.load(Path(request["labels"]))["labels"] if request.get("labels") else None


def _numbers(answer: Any, count: int) -> Array:
    """Check what the function gave."""
    array = np.asarray(answer)
    if array.dtype.kind not in "fiub" or array.shape not in ((), (count,)):
        raise TypeError(
            f"metric() gave {type(answer).__name__} of shape {array.shape} and type {array.dtype}: give a "
            f"number, or an array of shape ({count},)"
        )
    if not np.isfinite(array.astype(np.float64)).all():
        raise ValueError("metric() gave a value that is not finite")
    return array.astype(np.float64)


def _told(error: BaseException, path: str) -> str:
    """The traceback from the user's file on: what lies before is ours."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename == path), len(frames))
    lines = traceback.format_list(frames[first:]) + traceback.format_exception_only(error)
    return ("Traceback (most recent call last):\n" if frames[first:] else "") + "".join(lines)


def main() -> None:
    """Lock the process down, then answer one request."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    answer: Wire
    try:
        limit_resources(_CPU_SECONDS, _FILE_BYTES)
        deny_network()
        answer = {"evaluate": evaluate, "drop": drop}[request["operation"]](request)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code raises anything
        answer = Failure(error=_told(error, request["function"]), kind=RAISED)
    answers.write(answer.model_dump_json(by_alias=True) + "\n")
    answers.flush()
