"""From the cumulative bins that pods count their predictions in to the distributions of two revisions.

Both sides count from the same moment on, so that what clients ask at other times of the day says nothing. As
with counters, a pod counts after its warm-up, and what a restart lost is not guessed. The sums live in the
process: an operator that starts anew begins both sides anew.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.plan.analysis.distribution import Distributions

CLASSES = "class"
VALUES = "value"
KINDS = (CLASSES, VALUES)
"""Kinds of bins: classes have no order, values do."""


def signal_name(signal: str, kind: str) -> str:
    """Name the part of a distribution signal that is about one kind of bins."""
    return f"{signal} ({'classes' if kind == CLASSES else 'values'})"


Bins = Mapping[str, Mapping[int, int]]
"""Count of each bin, by kind."""


@dataclass(frozen=True)
class PodPredictions:
    """What one pod predicted since its server started; the rest as in `counters.PodSample`."""

    bins: Bins
    ready_since: float | None = None
    process: str = ""


@dataclass(frozen=True)
class Gathered:
    """What a revision's pods predicted since they are looked at.

    Attributes:
        total: predictions by kind and bin.
        baseline: the latest sample of each pod.
    """

    total: Bins = field(default_factory=dict)
    baseline: Mapping[str, PodPredictions] = field(default_factory=dict)


def gather(
    before: Gathered,
    sampled: Mapping[str, PodPredictions],
    listed: frozenset[str],
    now: float,
    warmup: float,
) -> Gathered:
    """Add what happened since the last look.

    Args:
        before: what this function gave last time.
        sampled: what the pods told, by name.
        listed: all pods of the revision that exist, answered or not.
        now: time of this look, seconds since the epoch.
        warmup: seconds after readiness during which nothing counts.
    """
    total = {kind: Counter(bins) for kind, bins in before.total.items()}
    kept = {pod: sample for pod, sample in before.baseline.items() if pod in listed}
    for pod in sorted(listed & sampled.keys()):
        sample, earlier = sampled[pod], before.baseline.get(pod)
        if sample.ready_since is None or now - sample.ready_since < warmup:
            continue
        kept[pod] = sample
        if earlier is None or _began_anew(earlier, sample):
            continue
        for kind, bins in sample.bins.items():
            known = earlier.bins.get(kind, {})
            total.setdefault(kind, Counter()).update(
                {place: count - known.get(place, 0) for place, count in bins.items()}
            )
    return Gathered(total, kept)


def distributions(canary: Gathered, stable: Gathered) -> dict[str, Distributions]:
    """Hold the two sides against each other, by kind."""
    found = {}
    for kind in KINDS:
        new, old = canary.total.get(kind, {}), stable.total.get(kind, {})
        places = sorted(new.keys() | old.keys())
        if places:
            found[kind] = Distributions(
                tuple(max(0, new.get(place, 0)) for place in places),
                tuple(max(0, old.get(place, 0)) for place in places),
                ordered=kind == VALUES,
            )
    return found


def _began_anew(earlier: PodPredictions, sample: PodPredictions) -> bool:
    return sample.process != earlier.process or any(
        count > sample.bins.get(kind, {}).get(place, 0)
        for kind, bins in earlier.bins.items()
        for place, count in bins.items()
    )
