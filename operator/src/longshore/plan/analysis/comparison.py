"""Two counters a tick, canary and stable: is the canary worse, no worse than allowed, or not yet known?

**Abort.** Null hypothesis: the odds of failure on the canary are at most `margin` times those on the stable
revision. Given the totals of a tick, the canary's failures follow Fisher's noncentral hypergeometric law (see
`longshore.plan.analysis.fisher`). That family has a monotone likelihood ratio in its odds ratio: for
theta1 > margin the ratio P_theta1(k) / P_margin(k) rises with k, and a smaller theta makes k stochastically
smaller (Lehmann and Romano, "Testing Statistical Hypotheses", 3rd ed., section 3.4). So for every theta up
to the margin the ratio's expectation is at most its expectation at the margin, which is 1: one boundary
point answers for the whole composite null, tick by tick, even if theta wanders from tick to tick.

**Promote.** The mirror image, null: at least `harm` times the odds. A service that hardly fails gives that
test nothing to split, so a second one asks whether the canary's failure rate is at least `harmless` (a
binomial likelihood ratio, monotone too). A canary counts as bad if it is both; the mean of the two processes
is an e-process under "both", and promotes at 1 / false_promote.

**Alone.** While the stable revision gets no requests (weight 100, or after promotion) there is nothing to
condition on. Once the canary had `ALONE_REQUESTS` in a row, its rate is held against the stable revision's
earlier rate, times `harm`: a coarser question, since an incident from outside is no longer shared.
"""

import math
from dataclasses import dataclass, field

from longshore.plan.analysis.evidence import Evidence, Mixture
from longshore.plan.analysis.fisher import Table, log_normalizer
from longshore.plan.analysis.verdict import Verdict

WORSE_RATIOS = (2.5, 4.0, 10.0, 30.0)
"""Alternatives of the abort process, in multiples of the margin.

The smallest is a second margin: below about the logarithmic mean of 1 and 2.5 (1.6 times the margin) every
alternative shrinks, so a difference of pods or nodes that small never aborts, at any traffic."""

WORSE = Mixture(weights=(1 / 6.5, 3 / 6.5, 2 / 6.5, 0.5 / 6.5), kept_back=0.1)
"""Most weight on 4, the odds ratio of 0.5 % against 2 %, which takes longest; chosen by `make
bench-rollout`."""

BETTER_RATIOS = (1.0, 0.4)
"""Alternatives of the promote process, in multiples of the margin: as good, and better."""

NO_WORSE = Mixture(weights=(2 / 3, 1 / 3))

HARMLESS_RATIOS = (0.4, 0.05)
"""Alternatives of the harmless process, in multiples of the harmless rate."""

HARMLESS = Mixture(weights=(0.5, 0.5))

ALONE_REQUESTS = 100
"""Requests to the canary without one to stable after which it counts as alone, and thin traffic no more: even
at 95 % weight chance alone makes a run this long once in 170 times."""

_BASELINE_REQUESTS = 100
"""Requests to the stable revision before its rate may stand in for it."""

_LONGEST_ESTIMATE = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Count:
    """Requests, and how many of them failed (or were slower than the objective)."""

    requests: int = 0
    failures: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.failures <= self.requests:
            raise ValueError(f"{self.failures} failures of {self.requests} requests is not possible")

    def __add__(self, other: "Count") -> "Count":
        return Count(self.requests + other.requests, self.failures + other.failures)

    @property
    def rate(self) -> float:
        """Share of failures, 0 for no requests."""
        return self.failures / self.requests if self.requests else 0.0

    def shrunk_rate(self, towards: float = 0.5) -> float:
        """Estimate the failure probability, never 0 or 1: one more request of which `towards` failed."""
        return (self.failures + towards) / (self.requests + 1)


NOTHING = Count()


@dataclass(frozen=True)
class Tick:
    """What happened between two looks.

    Attributes:
        canary: count on the canary.
        stable: count on the stable revision in the same time.
        seconds: time between the looks.
    """

    canary: Count
    stable: Count
    seconds: float


@dataclass(frozen=True)
class Limits:
    """What is asked of a canary, for one metric.

    Attributes:
        false_abort: probability of ever aborting a good canary by this metric (alpha / number of metrics).
        false_promote: probability of ever calling a bad canary good by this metric.
        margin: odds ratio up to which a canary is good (theta0).
        harm: odds ratio from which it is bad (theta_bad), above margin.
        harmless: failure rate below which a canary is not bad, whatever the odds ratio, 0 to 1.
    """

    false_abort: float = 0.01
    false_promote: float = 0.05
    margin: float = 1.0
    harm: float = 3.0
    harmless: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.false_abort < 1 and 0 < self.false_promote < 1 and 0 < self.harmless < 1):
            raise ValueError("falseAbort, falsePromote and harmless are probabilities between 0 and 1")
        if not 0 < self.margin < self.harm < math.inf:
            raise ValueError("harm must be above margin: between them lies what is tolerated")

    @property
    def abort_at(self) -> float:
        """Log evidence that aborts."""
        return -math.log(self.false_abort)

    @property
    def promote_at(self) -> float:
        """Log evidence that promotes."""
        return -math.log(self.false_promote)


@dataclass(frozen=True)
class Compared:
    """All that is remembered of a comparison: a few numbers that fit into status.

    Attributes:
        worse: evidence against "odds ratio at most margin".
        no_worse: evidence against "odds ratio at least harm".
        harmless: evidence against "failure rate at least harmless".
        canary: total count on the canary.
        stable: total count on the stable revision.
        alone: requests to the canary since the stable revision last had one, at most `ALONE_REQUESTS`.
    """

    worse: Evidence = field(default_factory=WORSE.start)
    no_worse: Evidence = field(default_factory=NO_WORSE.start)
    harmless: Evidence = field(default_factory=HARMLESS.start)
    canary: Count = NOTHING
    stable: Count = NOTHING
    alone: int = 0


@dataclass(frozen=True)
class Estimate:
    """When a decision is to be expected if failures go on as observed.

    Attributes:
        seconds: time of data until then.
        verdict: Pass or Fail.
    """

    seconds: float
    verdict: Verdict


def observe(limits: Limits, before: Compared, tick: Tick) -> Compared:
    """Take one tick into account."""
    seconds = max(0.0, tick.seconds)
    worse, no_worse = _odds_ratios(limits, before, tick)
    return Compared(
        worse=WORSE.advance(before.worse, worse, seconds),
        no_worse=NO_WORSE.advance(before.no_worse, no_worse, seconds),
        harmless=HARMLESS.advance(
            before.harmless,
            tuple(
                binomial_log_ratio(tick.canary, limits.harmless * ratio, limits.harmless)
                for ratio in HARMLESS_RATIOS
            ),
            seconds,
        ),
        canary=before.canary + tick.canary,
        stable=before.stable + tick.stable,
        alone=0 if tick.stable.requests else min(ALONE_REQUESTS, before.alone + tick.canary.requests),
    )


def abort_evidence(state: Compared) -> float:
    """Give the log e-process that the canary is worse than margin."""
    return WORSE.value(state.worse)


def promote_evidence(state: Compared) -> float:
    """Give the log e-process that the canary is not bad: the mean of its two tests."""
    a, b = NO_WORSE.value(state.no_worse), HARMLESS.value(state.harmless)
    high = max(a, b)
    return high + math.log(0.5 * (math.exp(a - high) + math.exp(b - high)))


def verdict(limits: Limits, state: Compared) -> Verdict:
    """Decide on all that has been observed; Fail goes before Pass."""
    if state.canary.requests == 0:
        return Verdict.NO_DATA
    if abort_evidence(state) >= limits.abort_at:
        return Verdict.FAIL
    if promote_evidence(state) >= limits.promote_at:
        return Verdict.PASS
    return Verdict.INCONCLUSIVE


def suspicious(limits: Limits, state: Compared) -> bool:
    """Whether half of the evidence (on the log scale) that aborts is there: no time to give more weight."""
    return abort_evidence(state) >= limits.abort_at / 2


def estimate(limits: Limits, state: Compared) -> Estimate | None:
    """Estimate the time to the nearer decision, or None where the observed rates lead to none within a
    week."""
    seconds = state.worse.seconds
    if seconds <= 0 or not state.canary.requests:
        return None
    found: list[Estimate] = []
    per_second = (state.canary.requests / seconds, state.stable.requests / seconds)
    both = (state.canary + state.stable).shrunk_rate()
    rates = (state.canary.shrunk_rate(both), state.stable.shrunk_rate(both))
    for alternatives, boundary, mixture, evidence, needed, outcome in (
        (
            [limits.margin * ratio for ratio in WORSE_RATIOS],
            limits.margin,
            WORSE,
            state.worse,
            limits.abort_at,
            Verdict.FAIL,
        ),
        (
            [limits.margin * ratio for ratio in BETTER_RATIOS],
            limits.harm,
            NO_WORSE,
            state.no_worse,
            limits.promote_at + math.log(2),
            Verdict.PASS,
        ),
    ):
        for theta, weight, log in zip(alternatives, mixture.weights, evidence.logs, strict=True):
            drift = _drift(per_second, rates, theta, boundary)
            found.extend(_reached(needed - math.log(weight) - log, drift, outcome))
    for ratio, weight, log in zip(HARMLESS_RATIOS, HARMLESS.weights, state.harmless.logs, strict=True):
        p, p0 = limits.harmless * ratio, limits.harmless
        drift = per_second[0] * (
            rates[0] * math.log(p / p0) + (1 - rates[0]) * (math.log1p(-p) - math.log1p(-p0))
        )
        found.extend(_reached(limits.promote_at + math.log(2) - math.log(weight) - log, drift, Verdict.PASS))
    return min(found, key=lambda e: e.seconds, default=None)


def _reached(missing: float, drift: float, outcome: Verdict) -> list[Estimate]:
    if drift <= 0 or missing > drift * _LONGEST_ESTIMATE:
        return []
    return [Estimate(max(0.0, missing) / drift, outcome)]


def _drift(per_second: tuple[float, float], rates: tuple[float, float], theta: float, theta0: float) -> float:
    """Expected growth of a log-likelihood ratio in nats per second, failures being rare.

    A failure then falls on the canary with probability n1 theta / (n1 theta + n0), independently of others.
    """
    n1, n0 = per_second
    failures = n1 * rates[0] + n0 * rates[1]
    if n1 <= 0 or n0 <= 0 or failures <= 0:
        return 0.0
    share = n1 * rates[0] / failures
    q, q0 = n1 * theta / (n1 * theta + n0), n1 * theta0 / (n1 * theta0 + n0)
    return failures * (share * math.log(q / q0) + (1 - share) * (math.log1p(-q) - math.log1p(-q0)))


def _odds_ratios(limits: Limits, before: Compared, tick: Tick) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Log-likelihood ratios of the abort and of the promote alternatives."""
    nothing = (0.0,) * len(WORSE_RATIOS), (0.0,) * len(BETTER_RATIOS)
    if not tick.stable.requests:
        if before.alone < ALONE_REQUESTS or before.stable.requests < _BASELINE_REQUESTS:
            return nothing
        return _alone(limits, before.stable, tick.canary), nothing[1]
    k = tick.canary.failures
    table = Table(tick.canary.requests, tick.stable.requests, k + tick.stable.failures)
    if table.tells_nothing:
        return nothing
    at_margin, at_harm = log_normalizer(table, limits.margin), log_normalizer(table, limits.harm)

    def ratio(theta: float, boundary: float, at_boundary: float) -> float:
        at_theta = at_margin if theta == limits.margin else log_normalizer(table, theta)
        return k * math.log(theta / boundary) - (at_theta - at_boundary)

    return (
        tuple(ratio(limits.margin * r, limits.margin, at_margin) for r in WORSE_RATIOS),
        tuple(ratio(limits.margin * r, limits.harm, at_harm) for r in BETTER_RATIOS),
    )


def _alone(limits: Limits, baseline: Count, canary: Count) -> tuple[float, ...]:
    """Hold the canary's rate against harm times what the stable revision's was."""
    allowed = min(0.5, limits.harm * max(baseline.shrunk_rate(), limits.harmless))
    odds = allowed / (1 - allowed)
    return tuple(
        binomial_log_ratio(canary, odds * ratio / (1 + odds * ratio), allowed) for ratio in WORSE_RATIOS
    )


def binomial_log_ratio(count: Count, p: float, p0: float) -> float:
    """Compute log P(count | p) - log P(count | p0) for a binomial count, both probabilities inside (0, 1)."""
    successes = count.requests - count.failures
    return count.failures * math.log(p / p0) + successes * (math.log1p(-p) - math.log1p(-p0))
