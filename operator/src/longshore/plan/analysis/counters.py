"""From the cumulative counters of pods to what happened between two looks.

A pod counts from a first sample taken after its warm-up. Pods that vanish, restart or do not answer lose
what they counted since their last sample, on both sides alike, so nothing is counted twice and nothing is
guessed; a pod that misses one scrape catches up with the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from longshore.plan.analysis.comparison import NOTHING, Count
from longshore.plan.analysis.fisher import LARGEST_COUNT

_MOST_PER_LOOK = LARGEST_COUNT // 10**4
"""A pod cannot have answered more than 100,000 requests between two looks; such a jump is a counter gone
wrong."""


@dataclass(frozen=True)
class PodSample:
    """Counters of one pod since its process started.

    Attributes:
        requests: answered requests.
        errors: of them, answered with an error that is the server's.
        slow: of them, slower than the latency objective.
        ready_since: when the pod became ready, seconds since the epoch; None while it is not.
        process: what changes when the process restarts (its start time, or the container's restart count).
    """

    requests: int
    errors: int
    slow: int = 0
    ready_since: float | None = None
    process: str = ""


@dataclass(frozen=True)
class Increment:
    """What happened on one revision's pods since the look before.

    Attributes:
        errors: requests and how many were errors.
        slow: requests and how many were slower than the objective.
        counted: pods that were counted.
        warming: pods left out because they are not ready or still warming up.
        restarted: pods whose counters began anew.
        vanished: pods that are gone since.
        unanswered: pods that exist and were not scraped.
    """

    errors: Count = NOTHING
    slow: Count = NOTHING
    counted: int = 0
    warming: int = 0
    restarted: int = 0
    vanished: int = 0
    unanswered: int = 0


def increments(
    baseline: Mapping[str, PodSample],
    scraped: Mapping[str, PodSample],
    listed: frozenset[str],
    now: float,
    warmup: float,
) -> tuple[Increment, dict[str, PodSample]]:
    """Compare two scrapes of one revision's pods, keyed by pod uid.

    Args:
        baseline: what this function returned as second value last time; empty at first.
        scraped: the answers of this scrape.
        listed: all pods of the revision that exist, answered or not.
        now: time of this scrape, seconds since the epoch.
        warmup: seconds after readiness during which nothing counts.

    Returns:
        What happened, and the baseline for the next call.
    """
    requests = errors = slow = counted = warming = restarted = 0
    kept: dict[str, PodSample] = {}
    for pod in sorted(listed):
        sample, earlier = scraped.get(pod), baseline.get(pod)
        if sample is None:
            if earlier is not None:
                kept[pod] = earlier
            continue
        if sample.ready_since is None or now - sample.ready_since < warmup:
            warming += 1
            continue
        if not _sound(sample):
            continue
        kept[pod] = sample
        if earlier is None:
            continue
        if _began_anew(earlier, sample):
            restarted += 1
            continue
        delta = sample.requests - earlier.requests
        counted += 1
        requests += delta
        errors += min(delta, sample.errors - earlier.errors)
        slow += min(delta, sample.slow - earlier.slow)
    return (
        Increment(
            errors=Count(requests, errors),
            slow=Count(requests, slow),
            counted=counted,
            warming=warming,
            restarted=restarted,
            vanished=len(baseline.keys() - listed),
            unanswered=len(listed - scraped.keys()),
        ),
        kept,
    )


def _sound(sample: PodSample) -> bool:
    return min(sample.requests, sample.errors, sample.slow) >= 0


def _began_anew(earlier: PodSample, sample: PodSample) -> bool:
    return (
        sample.process != earlier.process
        or sample.requests < earlier.requests
        or sample.errors < earlier.errors
        or sample.slow < earlier.slow
        or sample.requests - earlier.requests > _MOST_PER_LOOK
    )
