"""Simulated traffic on a stable revision and its canary, and what the analysis makes of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from longshore.plan.analysis.comparison import Limits
from numpy.typing import NDArray

from bench.rollout.vectorised import Fleet, Floats, Ints

LOOK_SECONDS = 2.0
"""How often the operator looks while a canary has weight."""

Modulate = Callable[[np.random.Generator, float, int], tuple[Floats, Floats]]
"""(random, time in seconds, rollouts) -> factors of the failure rate, canary and stable, one a rollout."""


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic. Rates are failure probabilities, requests a second are of both sides together.

    Attributes:
        burst: failures come in bursts of this many requests, each burst wholly on one side.
        fault_at: seconds until which the canary fails as rarely as the stable revision.
        modulate: changes both failure rates over time.
    """

    canary_rate: float
    stable_rate: float
    requests_per_second: float = 20.0
    weight: float = 0.10
    seconds: float = 1800.0
    burst: int = 1
    fault_at: float = 0.0
    modulate: Modulate | None = None


@dataclass(frozen=True)
class Outcome:
    """When each rollout was first aborted and first allowed to promote, seconds; infinity for never."""

    aborted: Floats
    promoted: Floats

    @property
    def wrongly_promoted(self) -> float:
        """Share of rollouts that reach the promote line before the abort line."""
        return float((self.promoted < self.aborted).mean())


def shared_incident(factor: float, seconds: float, horizon: float, rollouts: int, seed: int) -> Modulate:
    """Both sides fail `factor` times as often for `seconds`, from a moment of its own in each rollout."""
    begins = np.random.default_rng(seed).uniform(0, horizon - seconds, rollouts)

    def modulate(_: np.random.Generator, now: float, __: int) -> tuple[Floats, Floats]:
        factors = np.where((now > begins) & (now <= begins + seconds), factor, 1.0)
        return factors, factors

    return modulate


def gamma_noise(shape: float) -> Modulate:
    """Each side's failure rate is drawn anew every tick from a gamma law: overdispersed, sides apart."""

    def modulate(random: np.random.Generator, _: float, rollouts: int) -> tuple[Floats, Floats]:
        return random.gamma(shape, 1 / shape, rollouts), random.gamma(shape, 1 / shape, rollouts)

    return modulate


def pod_noise(sigma: float, stable_pods: int, rollouts: int, seed: int) -> Modulate:
    """Every pod has a failure rate of its own, log-normal, for the whole rollout; the canary is one pod."""
    random = np.random.default_rng(seed)
    canary = np.exp(random.normal(0, sigma, rollouts))
    stable = np.exp(random.normal(0, sigma, (stable_pods, rollouts))).mean(axis=0)
    return lambda _, __, ___: (canary, stable)


def simulate(
    scenario: Scenario,
    limits: Limits,
    rollouts: int,
    seed: int,
    tick: float = LOOK_SECONDS,
    promote: bool = False,
) -> Outcome:
    """Run many rollouts of a scenario, looking after every tick: the worst case of optional stopping."""
    random = np.random.default_rng(seed)
    fleet = Fleet(limits, rollouts)
    aborted = np.full(rollouts, np.inf)
    promoted = np.full(rollouts, np.inf)
    now = 0.0
    while now < scenario.seconds:
        now += tick
        fleet.observe(*draw(scenario, random, now, scenario.weight, tick, rollouts), tick, promote)
        aborted[fleet.aborts() & np.isinf(aborted)] = now
        if promote:
            promoted[fleet.promotes() & np.isinf(promoted)] = now
    return Outcome(aborted, promoted)


def draw(
    scenario: Scenario, random: np.random.Generator, now: float, weight: float, tick: float, rollouts: int
) -> tuple[Ints, Ints, Ints, Ints]:
    """Give requests and failures of canary and stable, n1, k1, n0, k0, one of each a rollout."""
    factors = scenario.modulate(random, now, rollouts) if scenario.modulate else (np.ones(1), np.ones(1))
    rates = (scenario.canary_rate if now > scenario.fault_at else scenario.stable_rate, scenario.stable_rate)
    drawn: list[NDArray[np.int64]] = []
    for rate, factor, share in zip(rates, factors, (weight, 1 - weight), strict=True):
        p = np.minimum(1.0, rate * factor)
        n = random.poisson(scenario.requests_per_second * share * tick, rollouts)
        if scenario.burst > 1:
            bursts = random.poisson(n * p / scenario.burst)
            n = n + bursts * (scenario.burst - 1)
            k = np.minimum(bursts * scenario.burst, n)
        else:
            k = random.binomial(n, p)
        drawn += [n, k]
    return drawn[0], drawn[1], drawn[2], drawn[3]
