"""Times candidates against the original, again where the first rounds do not show who wins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longshore.api.optimize import Goal, TechniqueName
from longshore.artifact.manifest import ORIGINAL

from longshore_optimizer.decide import LEAST_GAIN, Latency, Rules, Trial, doubtful, gain, is_better, together
from longshore_optimizer.measure.latency import time_models
from longshore_optimizer.measure.process import WorkerError
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.statistics import Ratio
from longshore_optimizer.techniques.base import Proposal

Measured = Mapping[str, Latency | WorkerError]
Progress = Callable[[int, int], None]

_CONFIRM_SECONDS = 5.0
_REPEATS = 3
"""Further turns of rounds on a machine so busy that the first do not tell candidates apart."""


@dataclass(frozen=True)
class Stopwatch:
    """How to time: the data (made-up inputs where there is none), where processes come from, the seconds that
    are left."""

    data: Path
    workers: Workers
    seed: int
    left: Callable[[], float]

    def time(
        self,
        models: Mapping[str, Path],
        turn: int = 0,
        progress: Progress = lambda done, total: None,
        least: float = 0.0,
        workers: Workers | None = None,
    ) -> dict[str, Latency | WorkerError]:
        """Time models, the original among them, in interleaved rounds; `least` seconds are always spent."""
        return time_models(
            models,
            ORIGINAL,
            self.data,
            workers or self.workers,
            seed=self.seed + turn,
            deadline=lambda: max(self.left(), least),
            progress=progress,
        )

    def compare(
        self, trials: Sequence[Trial], paths: Mapping[str, Path], rules: Rules, progress: Progress
    ) -> dict[str, Latency | WorkerError]:
        """Time all, then those between which it is open, until it is clear or the time is up."""
        alive = {t.proposal.name: paths[t.proposal.name] for t in trials if t.alive}
        measured = self.time(alive, progress=progress)
        for turn in range(1, _REPEATS + 1):
            timed = [replace(t, latency=_known(measured, t.proposal.name)) for t in trials]
            open_ones = doubtful(timed[0], [t for t in timed[1:] if t.latency is not None], rules)
            if not open_ones or self.left() <= _CONFIRM_SECONDS:
                break
            again = self.time({n: alive[n] for n in (ORIGINAL, *open_ones)}, turn, progress)
            measured = _joined(measured, again)
        return measured

    def confirm(self, models: Mapping[str, Path], name: str, goal: Goal) -> Ratio:
        """Time a winner against the original in new processes; gives its gain there."""
        measured: dict[str, Latency | WorkerError] = {}
        for turn in range(_REPEATS):
            # Where libraries lie in memory is part of the luck.
            with Workers(self.workers.cores) as workers:
                again = self.time(models, _REPEATS + 1 + turn, least=_CONFIRM_SECONDS, workers=workers)
            measured = _joined(measured, again) if measured else again
            first, second = _known(measured, ORIGINAL), _known(measured, name)
            if first is None or second is None:
                return Ratio(0.0, 0.0, 0.0)
            proposal = Proposal(name, TechniqueName.GRAPH)
            shown = gain(Trial(proposal, latency=first), Trial(proposal, latency=second), goal)
            if is_better(shown) or shown.estimate < LEAST_GAIN or self.left() <= _CONFIRM_SECONDS:
                break
        return shown


def _known(measured: Measured, name: str) -> Latency | None:
    latency = measured.get(name)
    return latency if isinstance(latency, Latency) else None


def _joined(measured: Measured, again: Measured) -> dict[str, Latency | WorkerError]:
    """Append what was timed again; rounds stay pairs only where as many were there before."""
    base = _known(measured, ORIGINAL)
    result = dict(measured)
    for name, latency in again.items():
        before = _known(measured, name)
        if isinstance(latency, WorkerError):
            result[name] = latency
        elif base is not None and before is not None and len(before.rounds) == len(base.rounds):
            result[name] = together(before, latency)
    return result
