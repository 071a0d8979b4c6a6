"""Who gets pods when a namespace's budget cannot give all: by declared priority, then by marginal latency.

Floors first (what a rollout needs, then `min`), higher priority before lower; then pod by pod within a
priority to whom the next pod saves most waiting per cost: requests per second times the seconds by which
one more pod shortens a request. Greedy allocation of one resource is optimal where each further pod helps
less than the one before (B. Fox, Discrete Optimization via Marginal Analysis, Management Science 13, 1966).
"""

import heapq
import math
from dataclasses import dataclass

from longshore.plan.scaling.queueing import ServiceCurve
from longshore.plan.scaling.signals import milliseconds

_KEPT = 1.25
"""A pod that stands is worth this much more than one that is to be started: noise must not move pods."""

_OVERLOADED = 60.0
"""Seconds that a request of an overloaded model is taken to wait: its queue has no end."""


@dataclass(frozen=True)
class Claim:
    """What one model asks of a budget."""

    key: str
    """`namespace/name`."""
    priority: int
    cost: float
    """Per pod and hour."""
    want: int
    """Pods that its own scaling wants."""
    min: int = 0
    floor: int = 0
    """Pods that its rollout needs: never taken away."""
    rate: float = 0.0
    """Requests per second."""
    curve: ServiceCurve | None = None
    standing: int = 0
    """Pods that it has; what it has to give up counts until it is gone."""

    def latency(self, pods: int) -> float:
        """Give the 95th percentile of latency with that many pods, in seconds."""
        if self.curve is None:
            return _OVERLOADED / (pods + 1)
        # With fewer pods than the load needs, each further one still helps those that it takes on.
        load = self.rate / (max(pods, 0.5) * self.curve.capacity)
        if pods <= 0 or load >= 1:
            return _OVERLOADED * max(load, 1.0)
        return min(self.curve.latency(self.rate / pods, 0.95), _OVERLOADED)

    def gain(self, pods: int) -> float:
        """Give what pod number `pods + 1` saves: seconds of waiting per second and cost."""
        saved = self.latency(pods) - self.latency(pods + 1)
        kept = _KEPT if pods < self.standing else 1.0
        return kept * max(self.rate, 1e-6) * saved / self.cost


@dataclass(frozen=True)
class Grant:
    """What one model gets, and why."""

    key: str
    pods: int
    reason: str


@dataclass(frozen=True)
class Budget:
    """A namespace's budget as one of its models sees it: the bounds, and what the others ask for."""

    name: str
    max_pods: int | None = None
    max_cost: float | None = None
    others: tuple[Claim, ...] = ()

    def grant(self, own: Claim) -> Grant | None:
        """Give what this model gets; None while there is enough for everybody.

        Pods that another one has to give up are counted until they are gone, so the bound holds at any
        moment and not only once everything has settled.
        """
        purse = _purse(self.max_pods, self.max_cost)
        used = purse
        for claim in self.others:
            used = used.less(max(claim.want, claim.floor, claim.standing), claim.cost)
        if used.fits(max(own.want, own.floor), own.cost):
            return None
        claims = (own, *self.others)
        grant = next(g for g in share(claims, self.max_pods, self.max_cost) if g.key == own.key)
        free = purse
        for claim in self.others:
            free = free.less(claim.standing, claim.cost)
        least = max(own.floor, own.standing)
        if grant.pods > least and not free.fits(grant.pods, own.cost):
            pods = max(least, free.most(own.cost))
            words = f"{pods} of {own.want} wanted: {grant.pods} are granted once others have given theirs up"
            return Grant(own.key, pods, words)
        return grant if grant.pods < own.want else None


@dataclass(frozen=True)
class _Purse:
    pods: float
    cost: float

    def can(self, cost: float) -> bool:
        return self.pods >= 1 and self.cost >= cost - 1e-9

    def less(self, count: int, cost: float) -> "_Purse":
        return _Purse(self.pods - count, self.cost - count * cost)

    def fits(self, count: int, cost: float) -> bool:
        return self.pods >= count and self.cost >= count * cost - 1e-9

    def most(self, cost: float) -> int:
        """Give how many pods of this cost it pays for."""
        return max(0, math.floor(min(self.pods, (self.cost + 1e-9) / cost)))


def _purse(max_pods: int | None, max_cost: float | None) -> _Purse:
    return _Purse(
        math.inf if max_pods is None else float(max_pods), math.inf if max_cost is None else max_cost
    )


def share(
    claims: tuple[Claim, ...], max_pods: int | None = None, max_cost: float | None = None
) -> tuple[Grant, ...]:
    """Divide a budget; the order of `claims` does not matter, and grants come in order of key."""
    purse = _purse(max_pods, max_cost)
    ranked = sorted(claims, key=lambda c: (-c.priority, c.key))
    granted: dict[str, int] = {}
    for claim in ranked:  # a rollout under way is carried even beyond the budget
        granted[claim.key] = claim.floor
        purse = purse.less(claim.floor, claim.cost)
    for claim in ranked:
        while granted[claim.key] < min(claim.min, claim.want) and purse.can(claim.cost):
            granted[claim.key] += 1
            purse = purse.less(1, claim.cost)
    for priority in sorted({c.priority for c in claims}, reverse=True):
        heap = [
            (-c.gain(granted[c.key]), c.key, c)
            for c in claims
            if c.priority == priority and granted[c.key] < c.want
        ]
        heapq.heapify(heap)
        while heap:
            _, key, claim = heapq.heappop(heap)
            if not purse.can(claim.cost):
                continue  # a cheaper one may still fit
            granted[key] += 1
            purse = purse.less(1, claim.cost)
            if granted[key] < claim.want:
                heapq.heappush(heap, (-claim.gain(granted[key]), key, claim))
    bound = _bound(max_pods, max_cost)
    return tuple(
        Grant(c.key, granted[c.key], _explain(c, granted, claims, bound))
        for c in sorted(claims, key=lambda c: c.key)
    )


def _bound(max_pods: int | None, max_cost: float | None) -> str:
    parts = [] if max_pods is None else [f"{max_pods} pods"]
    parts += [] if max_cost is None else [f"a cost of {max_cost:g} per hour"]
    return " and ".join(parts) or "no bound"


def _explain(claim: Claim, granted: dict[str, int], claims: tuple[Claim, ...], bound: str) -> str:
    pods = granted[claim.key]
    if pods >= claim.want:
        beyond = f", {claim.floor} of them for its rollout" if claim.floor > claim.want else ""
        return f"{pods} of {claim.want} wanted{beyond}"
    higher = sum(granted[c.key] for c in claims if c.priority > claim.priority)
    rivals = [
        c for c in claims if c.priority == claim.priority and c.key != claim.key and granted[c.key] > c.floor
    ]
    words = f"{pods} of {claim.want} wanted: the budget of {bound} is spent"
    if higher:
        words += f"; {higher} pods are with higher priorities than {claim.priority}"
    if rivals:
        best = max(rivals, key=lambda c: (c.gain(granted[c.key] - 1), c.key))
        words += (
            f"; one more would cut latency by {_saved(claim, pods)}, "
            f"{best.key}'s last one cut {_saved(best, granted[best.key] - 1)} at {best.rate:.3g} rps"
        )
    return words


def _saved(claim: Claim, pods: int) -> str:
    return milliseconds(claim.latency(pods) - claim.latency(pods + 1))
