"""The error probabilities and the times to a decision, over simulated traffic."""

import numpy as np
from longshore.api.rollout import Analysis
from longshore.plan.analysis.comparison import Limits
from longshore.plan.analysis.settings import LOOK_SECONDS, settings_of

from bench.common import Row
from bench.rollout.thresholds import simulate_strikes
from bench.rollout.traffic import Scenario, gamma_noise, pod_noise, shared_incident, simulate
from bench.rollout.vectorised import Floats

ASKED = Analysis()
ROLLOUTS = 10_000
FEWER = 2_000
GOOD, BAD, WORSE = 0.005, 0.02, 0.05
INCIDENT = 8.0
INCIDENT_SECONDS = 300.0
HALF_HOUR = 1800.0


def rows() -> list[Row]:
    """Measure with the defaults of the kind."""
    limits = settings_of(ASKED, latency_objective=False).errors
    return [*_promised(limits), *_beyond(limits), *_compared_with_strikes()]


def _promised(limits: Limits) -> list[Row]:
    incident = shared_incident(INCIDENT, INCIDENT_SECONDS, HALF_HOUR, ROLLOUTS, seed=1)
    same = simulate(Scenario(GOOD, GOOD, modulate=incident), limits, ROLLOUTS, seed=2)
    bad = simulate(Scenario(BAD, GOOD), limits, ROLLOUTS, seed=3, promote=True)
    worse = simulate(Scenario(WORSE, GOOD), limits, ROLLOUTS, seed=4)
    return [
        _row("false aborts, A/A, 30 min, 20 rps, shared 8x incident", _percent(same.aborted), "%", 1.0),
        _row("false promotions, 0.5 -> 2 % errors", 100 * bad.wrongly_promoted, "%", 5.0),
        _row("median time to abort, 0.5 -> 5 % errors, 20 rps, 10 % weight", _median(worse.aborted), "s", 60),
        _row("median time to abort, 0.5 -> 2 % errors, 20 rps, 10 % weight", _median(bad.aborted), "s", 250),
    ]


def _beyond(limits: Limits) -> list[Row]:
    """Overdispersed errors, where the law of the totals does not hold exactly."""
    found = []
    for burst in (3, 5, 10):
        outcome = simulate(Scenario(GOOD, GOOD, burst=burst), limits, ROLLOUTS, seed=10 + burst)
        found.append(
            _row(f"false aborts, A/A, errors in bursts of {burst}", _percent(outcome.aborted), "%", 1.0)
        )
    noisy = simulate(Scenario(GOOD, GOOD, modulate=gamma_noise(1.0)), limits, ROLLOUTS, seed=20)
    pods = pod_noise(0.2, 9, ROLLOUTS, seed=21)
    uneven = simulate(Scenario(GOOD, GOOD, modulate=pods), limits, ROLLOUTS, seed=22)
    quick = settings_of(ASKED, latency_objective=True).errors
    both = simulate(Scenario(WORSE, GOOD), quick, FEWER, seed=23)
    late = Scenario(1.0, GOOD, requests_per_second=50, seconds=HALF_HOUR + 120, fault_at=HALF_HOUR)
    fault = simulate(late, limits, FEWER, seed=24)
    good = simulate(Scenario(GOOD, GOOD), limits, FEWER, seed=25, promote=True)
    return [
        *found,
        _row("false aborts, A/A, error rates of both sides gamma-noisy", _percent(noisy.aborted), "%", 1.0),
        _row(
            "false aborts, A/A, pods that differ by 20 % in their error rate",
            _percent(uneven.aborted),
            "%",
            2.0,
            "no canary of one pod is exactly as good as the others; target of our own",
        ),
        _row(
            "median time to abort, 0.5 -> 5 % errors, errors and latency both looked at",
            _median(both.aborted),
            "s",
            75,
            "alpha is shared by two signals; target of our own",
        ),
        _row(
            "median time to decide, 100 % errors after 30 good minutes, 50 rps",
            _median(fault.aborted) - HALF_HOUR,
            "s",
            10,
            "from the fault to the decision; the gateway comes on top",
        ),
        _row(
            "median time to promote a good canary, 0.5 % errors, 20 rps, 10 % weight",
            _median(good.promoted),
            "s",
            600,
            "target of our own",
        ),
    ]


def _compared_with_strikes() -> list[Row]:
    """The threshold of 99 % with five strikes, for the same traffic: how much worse it is."""
    quiet = simulate_strikes(Scenario(GOOD, GOOD), FEWER, seed=30)
    shared = shared_incident(INCIDENT, INCIDENT_SECONDS, HALF_HOUR, FEWER, seed=31)
    incident = simulate_strikes(Scenario(GOOD, GOOD, modulate=shared), FEWER, seed=32)
    worse = simulate_strikes(Scenario(WORSE, GOOD), FEWER, seed=33)
    note = "a threshold with five strikes, for comparison: it has to be beaten"
    return [
        Row("threshold rule: false aborts, A/A, 30 min, 20 rps", _percent(quiet), "%", ">=", 1.0, note),
        Row(
            "threshold rule: false aborts with a shared 8x incident", _percent(incident), "%", ">=", 1.0, note
        ),
        Row("threshold rule: median time to abort, 0.5 -> 5 % errors", _median(worse), "s", ">=", 60, note),
    ]


def environment() -> dict[str, object]:
    """Say what the figures were simulated with."""
    return {
        "simulation": {
            "rollouts": ROLLOUTS,
            "lookSeconds": LOOK_SECONDS,
            "falseAbort": ASKED.false_abort,
            "falsePromote": ASKED.false_promote,
            "margin": ASKED.margin,
            "harm": ASKED.harm,
        }
    }


def _row(name: str, value: float, unit: str, target: float, note: str = "") -> Row:
    return Row(name, round(value, 3), unit, "<=", target, note)


def _percent(times: Floats) -> float:
    return round(100 * float(np.isfinite(times).mean()), 3)


def _median(times: Floats) -> float:
    return float(np.median(times))
