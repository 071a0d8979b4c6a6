"""The request rate to plan for: measured, surging, growing until new pods are ready, forecast."""

import math
from dataclasses import dataclass, replace

from longshore.plan.scaling.inputs import Policy
from longshore.plan.scaling.state import State
from longshore.plan.scaling.surges import rate_before
from longshore.plan.scaling.window import Averages, averages, trend

_TREND_SIGMA = 4.0
_MOST_GROWTH = 1.1
"""Growth and backlog together add at most this to the highest rate seen: an overshoot is bounded by it."""

_TICK_SECONDS = 2.0


@dataclass(frozen=True)
class Demand:
    """Requests per second to plan for, with both windows and what was told apart."""

    rate: float
    stable: Averages
    recent: Averages
    before: float | None
    """Rate before the burst that is going on, None without one."""
    forecast: str = ""


def demand_of(policy: Policy, state: State, now: float) -> Demand | None:
    """Judge the windows; None when nothing was seen in the panic window."""
    stable = averages(state.entries, now, policy.stable_window)
    recent = averages(state.entries, now, policy.panic_window)
    if stable is None or recent is None or recent.coverage <= 0:
        return None
    before = rate_before(stable, recent, state.dispersion)
    surging = before is not None
    rate = max(stable.rate, recent.rate) if surging else stable.rate
    level, slope, error = trend(state.entries, now)
    growing = slope > _TREND_SIGMA * error * math.sqrt(state.dispersion)
    if growing and _still_grows(policy, state, recent, now):
        ahead = slope * (state.readiness_seconds + 2 * _TICK_SECONDS)
        highest = max(stable.rate, recent.rate)
        rate = max(rate, min(level + ahead, highest * _MOST_GROWTH))
    rate = max(rate, min(rate + _backlog(state, recent), max(stable.rate, recent.rate) * _MOST_GROWTH))
    rate = state.surges.room(now, rate)
    rate, told = _with_forecast(policy, state, now, rate)
    return Demand(rate, stable, recent, before, told)


def _still_grows(policy: Policy, state: State, recent: Averages, now: float) -> bool:
    """Tell growth from a step that is over: the last seconds must exceed those before them."""
    earlier = averages(
        [e for e in state.entries if e.at <= now - policy.panic_window + 1e-9],
        now - policy.panic_window,
        2 * policy.panic_window,
    )
    if earlier is None:
        return False
    expected = earlier.rate * recent.seconds
    return recent.rate * recent.seconds - expected > math.sqrt(state.dispersion * max(expected, 4.0))


def _backlog(state: State, recent: Averages) -> float:
    """Give the rate that works off, while new pods start, what waits beyond a second's worth of requests."""
    waiting = (recent.pending or 0.0) - recent.rate
    return max(waiting, 0.0) / max(state.readiness_seconds, 10.0)


def _with_forecast(policy: Policy, state: State, now: float, rate: float) -> tuple[float, str]:
    season = state.seasonal
    if season is None or policy.forecast_period is None:
        return rate, ""
    ahead = policy.forecast_ahead
    if ahead is None:
        ahead = state.readiness_seconds + 2 * _TICK_SECONDS
    expected = season.at(now + ahead)
    if expected is None or season.judged == 0:
        return rate, "forecast: no season has been seen yet"
    told = f"forecast: {expected:.3g} rps in {ahead:.0f} s, off by {season.error:.0%} on average"
    if not season.usable:
        return rate, f"{told}; not followed until it is better"
    return max(rate, expected), told


def follow_surges(policy: Policy, state: State, demand: Demand, now: float) -> State:
    """Learn what bursts do in the time that it takes to notice them and to start pods."""
    horizon = state.readiness_seconds + policy.panic_window + 2 * _TICK_SECONDS
    surges = state.surges.follow(now, demand.before, demand.recent.rate, horizon)
    return replace(state, surges=surges)
