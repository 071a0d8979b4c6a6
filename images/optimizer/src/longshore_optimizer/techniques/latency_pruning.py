"""Pruning to a latency limit: step by step, against what each step is measured to save."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from longshore_optimizer.data import batches, read
from longshore_optimizer.measure import threads
from longshore_optimizer.measure.in_process import latencies, open_as_served, threads_of
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import Work
from longshore_optimizer.techniques.survey import Removals, Survey, can_go_on, pruned

_STEP = 0.08
"""Share of the latency that one step takes away."""

_MOST_SECONDS = 240.0
_JUDGED = 32
_TIMED = 8
"""Samples that a model is compared on, and of those that it is timed on."""

Judge = Callable[[onnx.ModelProto], tuple[float, float]]
"""Gives a model's p95 in ms and the squared error of its answers relative to the original's."""


class Referee:
    """Times a model and compares its answers with those of the original on calibration data."""

    def __init__(self, work: Work) -> None:
        self._path = work.scratch / "step.onnx"
        self._threads = work.threads
        session = open_session(work.model, work.threads)
        self._inputs = tensor_specs(session.get_inputs())
        data = read(Path(str(work.calibration)), "calibration", self._inputs).head(_JUDGED)
        self._feeds = [b.feeds for b in batches(data, self._inputs)]
        feeds = self._feeds[:_TIMED]
        original = open_as_served(work.model, work.threads, feeds, threads.rule())
        self._rule = threads.rule(threads_of(original))
        self._expected = self._answers(session)

    def _answers(self, session: Any) -> NDArray[np.float64]:
        runs = [session.run(None, f) for f in self._feeds]
        parts = [
            np.asarray(v, np.float64).ravel() for run in runs for v in run if np.asarray(v).dtype.kind == "f"
        ]
        return np.concatenate(parts)

    def __call__(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Give p95 in ms and the squared error relative to the original's answers."""
        onnxfile.save(model, self._path)
        session = open_as_served(self._path, self._threads, self._feeds[:_TIMED], self._rule)
        self._path.unlink()
        answers = self._answers(session)
        comparable = answers.shape == self._expected.shape
        harm = float(np.sum((answers - self._expected) ** 2)) if comparable else float("inf")
        return self._p95(session), harm / max(float(np.sum(self._expected**2)), 1e-30)

    def _p95(self, session: Any) -> float:
        # The middle of three rounds: one that the host interrupted does not count.
        rounds = [latencies(session, self._feeds[:_TIMED]) for _ in range(3)]
        return statistics.median(statistics.quantiles(values, n=20)[-1] for values in rounds)


def to_limit(survey: Survey, judge: Judge, limit_ms: float) -> Removals:
    """Prune step by step against measured latency until the limit is met (NetAdapt, Yang et al. 2018).

    Each step asks every group for the same share of the latency and keeps what harms the answers least.
    Where no group alone gives that share, or a lucky measurement asks for too much, ever more channels go
    from the group that they harm least.
    """
    started = time.monotonic()
    removals, stride = dict.fromkeys(survey.groups, 0), 1
    current, _ = judge(survey.model)
    while current > limit_ms and time.monotonic() - started < _MOST_SECONDS:
        wanted = max(limit_ms, current * (1 - _STEP))
        options = [
            option
            for space in survey.groups
            if (option := _smaller(survey, judge, removals, space, wanted)) is not None
        ]
        if options:
            stride = 1
        else:
            options = [
                _judged(survey, judge, _without(survey, removals, space, stride))
                for space in can_go_on(survey, removals)
            ]
            stride *= 2
        if not options:
            break
        _, current, removals = min(options, key=lambda o: (o[0], o[1]))
    return removals


def _smaller(
    survey: Survey, judge: Judge, removals: Removals, space: int, wanted_ms: float
) -> tuple[float, float, Removals] | None:
    """Take ever more channels out of one group until it is as fast as wanted; gives harm, p95, removals."""
    steps, tried = 1, removals
    while survey.step(space, tried[space]):
        tried = _without(survey, tried, space, steps)
        option = _judged(survey, judge, tried)
        if option[1] <= wanted_ms:
            return option
        steps *= 2
    return None


def _judged(survey: Survey, judge: Judge, removals: Removals) -> tuple[float, float, Removals]:
    p95, harm = judge(pruned(survey, removals))
    return harm, p95, removals


def _without(survey: Survey, removals: Removals, space: int, steps: int) -> Removals:
    """Take so many steps of channels more out of a group, or as many as may go."""
    tried = dict(removals)
    for _ in range(steps):
        tried[space] += survey.step(space, tried[space])
    return tried
