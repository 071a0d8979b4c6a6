"""Batch sizes worth aiming for, from the measured time of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

ENOUGH = 0.9
"""A batch size is worth aiming for when it reaches this share of the best throughput of any."""


@dataclass(frozen=True)
class Point:
    """One measurement: a batch of `rows` took `seconds`."""

    rows: int
    seconds: float


@dataclass(frozen=True)
class BatchPlan:
    """How requests are joined.

    Attributes:
        most: largest batch that may run, in rows.
        preferred: sizes that the batcher aims for, ascending.
        delay_us: longest that a request waits for others, in microseconds.
        splits: the backend itself runs no more than `most` rows at once.
    """

    most: int
    preferred: tuple[int, ...]
    delay_us: int = 0
    splits: bool = False


def plan(points: Sequence[Point], most: int, objective: float | None) -> BatchPlan:
    """Choose batch sizes.

    A request that arrives just after a batch has started waits for it and then runs in the next, so its
    latency is up to twice the time of a batch: sizes beyond half the objective are left out. Of the others
    the smallest is preferred that reaches `ENOUGH` of the best throughput: t(B) = a + bB gains little beyond,
    and while a larger batch runs fewer requests are left to gather for the next.

    Args:
        points: the measured curve, any order; empty where nothing was measured.
        most: largest batch that the user allows, in rows.
        objective: seconds that a request may take; None where there is no bound.
    """
    usable = sorted((p for p in points if 1 <= p.rows <= most and p.seconds > 0), key=lambda p: p.rows)
    if objective is not None and usable:
        within = [p for p in usable if 2 * p.seconds <= objective]
        if len(within) < len(usable):
            most = min(most, max((p.rows for p in within), default=1))
            usable = within
    if not usable:
        return BatchPlan(most, ())
    best = max(p.rows / p.seconds for p in usable)
    enough = next(p.rows for p in usable if p.rows / p.seconds >= ENOUGH * best)
    return BatchPlan(most, (enough,) if enough > 1 else ())
