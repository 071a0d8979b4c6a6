"""A metric that the user wrote: asked for in a process of its own, without network and credentials.

The file defines `metric(outputs, labels)`. `outputs` maps the model's outputs to arrays with the samples on
axis 0, `labels` is the array of the evaluation data or None. It gives one number for the set, or an array of
shape (n,) whose mean counts. Higher is better unless the file sets `LOWER_IS_BETTER = True`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from longshore.artifact.base import Wire
from numpy.typing import NDArray

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.measure import outputs as outputs_file
from longshore_optimizer.measure.process import WorkerError
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.metrics import Evaluated, Outputs
from longshore_optimizer.statistics import Drop, mean_drop, paired_binary

TIMEOUT = 600.0
"""Seconds that one answer may take; a bootstrap takes fewer resamples where the function is slow."""

RAISED = "MetricRaised"
_MODULE = "longshore_optimizer.custom_metric_worker"
_LONGEST = 3000

Answer = TypeVar("Answer", bound=Wire)


class Scored(Wire):
    """Answer to `evaluate`: `scores` where the function gave one number a sample; higher is better there."""

    value: float
    scores: tuple[float, ...] | None = None


class Dropped(Wire):
    """Answer to `drop`."""

    estimate: float
    upper: float | None


class MetricRaisedError(Problem):
    """The user's function failed; the message ends with its traceback."""

    def __init__(self, message: str) -> None:
        """Keep the message."""
        super().__init__(Reason.METRIC_FAILED, message)


@dataclass(frozen=True)
class CustomEvaluator:
    """Scores outputs with the user's function; as `metrics.Evaluator` does with a metric of its own."""

    function: Path
    labels: NDArray[Any] | None
    confidence: float
    seed: int
    scratch: Path
    workers: Workers

    def evaluate(self, outputs: Outputs) -> Evaluated:
        """Call the function once.

        Raises:
            MetricRaisedError: it raised, took too long, or gave something else than numbers.
        """
        count = min((len(v) for v in outputs.values()), default=0)
        scored = self._ask(Scored, operation="evaluate", count=count, outputs=self._stored("first", outputs))
        scores = np.array(scored.scores, dtype=np.float64) if scored.scores is not None else None
        return Evaluated(scored.value, scores, None, outputs)

    def drop(self, original: Evaluated, candidate: Evaluated) -> Drop:
        """Loss of the candidate with its upper bound, in units of the metric.

        Raises:
            MetricRaisedError: as `evaluate`.
        """
        first, second = original.scores, candidate.scores
        if first is not None and second is not None and len(first) == len(second):
            if np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all():
                return paired_binary(first > 0.5, second > 0.5, self.confidence)
            return mean_drop(first, second, self.confidence, self.seed)
        if original.outputs is None or candidate.outputs is None:
            raise ValueError("both models must have been evaluated")
        dropped = self._ask(
            Dropped,
            operation="drop",
            count=min((len(v) for v in original.outputs.values()), default=0),
            outputs=self._stored("first", original.outputs),
            candidate=self._stored("second", candidate.outputs),
            confidence=self.confidence,
            seed=self.seed,
        )
        return Drop(dropped.estimate, float("inf") if dropped.upper is None else dropped.upper)

    def _stored(self, name: str, outputs: Outputs) -> str:
        path = self.scratch / f"metric-{name}.npz"
        outputs_file.save(path, {k: list(v) for k, v in outputs.items()})
        return str(path)

    def _ask(self, answer: type[Answer], **request: Any) -> Answer:
        labels = None
        if self.labels is not None:
            labels = self.scratch / "metric-labels.npz"
            outputs_file.save(labels, {"labels": [np.asarray(row) for row in self.labels]})
        with self.workers.start(_MODULE) as worker:
            try:
                return worker.ask(
                    answer,
                    TIMEOUT,
                    function=str(self.function),
                    labels=str(labels) if labels else None,
                    **request,
                )
            except WorkerError as error:
                text = str(error).strip()
                cause = f"ended in {TIMEOUT:g} s without an answer" if error.kind == "Timeout" else "raised"
                raise MetricRaisedError(
                    f"the metric function {self.function.name} {cause}: correct it and try again\n"
                    f"{text[-_LONGEST:]}"
                ) from error
