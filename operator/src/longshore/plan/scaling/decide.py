"""One tick of scaling: what was observed and remembered -> how many pods, and why in one line.

Up at once and by need; down slowly, one window late, and never on missing data; never below what the
present rollout needs.
"""

import math
from dataclasses import dataclass, replace

from longshore.api.scaling import Signal
from longshore.plan.scaling.curve import CurveFit
from longshore.plan.scaling.demand import Demand, demand_of, follow_surges
from longshore.plan.scaling.gather import gather
from longshore.plan.scaling.inputs import Decision, Observation, Policy, RevisionLoad
from longshore.plan.scaling.queueing import ServiceCurve
from longshore.plan.scaling.schedule import ScheduleError, active
from longshore.plan.scaling.signals import Load, Need, default_need, external_need, need_of
from longshore.plan.scaling.state import NeedAt, State
from longshore.plan.scaling.window import Tick

_ROUNDING = 0.02
"""A need this little above a whole number does not ask for one more pod."""

_TOLERANCE = 0.05
"""A need this share above what runs is noise that the planned headroom carries; one must stay this share
below a smaller number before it is taken."""

_LOWER_SHARE = 0.2
"""Most of the pods that one step down takes, and at least one."""

_DOWN_SIGMA = 3.0
_NEEDS_KEPT = 32
_WAKE_SECONDS = 5.0
"""A burst that waited for the first pods should be worked off in this long."""


@dataclass(frozen=True)
class _Asked:
    """What all signals together ask for."""

    pods: float | None
    words: str
    problems: tuple[str, ...]
    noise: float
    """Standard deviation of the need over the need, from the number of requests it rests on."""
    blind: bool
    """Whether a signal could not be read: the others may raise the number but not lower it."""
    given: bool = False
    """Whether the need was given as a number, not counted."""


def step(policy: Policy, state: State, seen: Observation) -> tuple[State, Decision]:
    """Decide once. Total: any state and observation give an answer; equal ones give an equal answer."""
    gathered = gather(policy, state, seen)
    state, tick = gathered.state, gathered.tick
    problems = list(gathered.problems)
    floor = max(policy.min, _scheduled(policy, seen.now, problems))
    total = sum(r.replicas for r in seen.revisions)
    state = _track_idle(state, seen, tick)
    demand = demand_of(policy, state, seen.now)
    if demand is not None:
        state = follow_surges(policy, _correct(policy, state, demand, seen), demand, seen.now)
    reference = _reference(seen.revisions)
    curve = _curve(policy, state, reference)
    if total == 0 and reference is not None:
        return _from_zero(policy, state, seen, floor, curve, reference, problems)
    asked = _ask(policy, state, seen, demand, curve)
    problems += asked.problems
    state = _remember_need(policy, state, seen.now, asked, demand)
    idle = seen.now - state.idle_since if state.idle_since is not None else 0.0
    elsewhere = _elsewhere(policy, seen)
    quiet = all(need.pods == 0 for need in elsewhere)
    if floor == 0 and idle >= policy.idle_after and quiet and _may_stop(seen):
        words = f"no request, no stream and nothing waiting for {idle:.0f} s"
        wanted = {r.name: r.floor for r in seen.revisions}
        return state, _decision(state, seen, wanted, 0.0, words, problems, demand, held=False, curve=curve)
    blind = asked.blind or asked.pods is None
    ready_to_lower, why_not = _may_lower(policy, state, seen.now, blind)
    wanted = {}
    for revision in seen.revisions:
        wanted[revision.name] = _one(policy, state, seen, revision, reference, asked, ready_to_lower)
    limit = _fit_bounds(wanted, seen, max(floor, 1), max(policy.max, policy.min))
    after = sum(wanted.values())
    if after < total:
        state = replace(state, lowered_at=seen.now)
    words = asked.words or "no signal could be read"
    why_not = "" if asked.pods is None and demand is None else why_not
    if asked.pods is not None:
        words += f", needs {asked.pods:.1f}"
    if demand is not None and demand.rate > 1.15 * max(demand.stable.rate, demand.recent.rate):
        words += f"; {demand.recent.rate:.3g} rps now, the rest is room for load expected from experience"
    lower = asked.pods is None or math.ceil(asked.pods - _ROUNDING) < after
    if limit:
        words += f"; {limit}"
    elif lower and after >= total and why_not and after > max(floor, 1):
        words += f"; {why_not}"
    return state, _decision(state, seen, wanted, asked.pods, words, problems, demand, held=blind, curve=curve)


def _scheduled(policy: Policy, now: float, problems: list[str]) -> int:
    floor = 0
    for schedule in policy.schedules:
        try:
            if active(schedule, now):
                floor = max(floor, schedule.min)
        except ScheduleError as error:
            problems.append(f"a schedule is not followed: {error}")
    return floor


def _reference(revisions: tuple[RevisionLoad, ...]) -> RevisionLoad | None:
    """Give the revision that has most of the traffic."""
    return max(revisions, key=lambda r: (r.weight, r.replicas, r.name), default=None)


def _curve(policy: Policy, state: State, revision: RevisionLoad | None) -> ServiceCurve | None:
    if revision is None:
        return None
    fits = dict(state.fits)
    fit = fits.get(revision.name, CurveFit())
    if fit.w <= 0 and fits:
        fit = next(reversed(fits.values()))  # a new revision is taken to be like the last until it has run
    return fit.curve(policy.max_batch / state.rows_per_request, state.workers, revision.measured)


def _track_idle(state: State, seen: Observation, tick: Tick | None) -> State:
    """Notice since when nothing at all uses the model; not knowing is not idleness."""
    waiting = seen.waiting
    if waiting is not None and (waiting.demand > 0 or waiting.active > 0):
        return replace(state, idle_since=None)
    if tick is None:
        return state
    quiet = (
        tick.coverage >= 1.0
        and tick.arrivals == 0
        and tick.requests == 0
        and not tick.pending
        and not tick.streams
        and not tick.concurrency
    )
    if not quiet:
        return replace(state, idle_since=None)
    return state if state.idle_since is not None else replace(state, idle_since=seen.now - tick.seconds)


def _may_stop(seen: Observation) -> bool:
    """Without an activator that would notice the next client, the last pod must stay."""
    return seen.waiting is not None and not any(r.floor for r in seen.revisions)


def _elsewhere(policy: Policy, seen: Observation) -> list[Need]:
    """Judge what is asked for by PromQL: work may wait where no pod and no activator sees it."""
    return [
        external_need(target, seen.now, seen.external.get(index))
        for index, target in enumerate(policy.targets)
        if target.signal is Signal.PROMETHEUS
    ]


def _from_zero(
    policy: Policy,
    state: State,
    seen: Observation,
    floor: int,
    curve: ServiceCurve | None,
    reference: RevisionLoad,
    problems: list[str],
) -> tuple[State, Decision]:
    waiting = seen.waiting
    demand = waiting.demand if waiting is not None else 0
    need = 0.0
    words = "at zero, nobody waits"
    if demand > 0:
        need = 1.0
        words = f"{demand} clients wait for a pod"
        if curve is not None:
            need = max(1.0, demand / (curve.capacity * policy.utilization * _WAKE_SECONDS))
    elsewhere = _elsewhere(policy, seen)
    blind = any(one.problem for one in elsewhere)
    problems += [one.problem for one in elsewhere if one.problem]
    most = max(elsewhere, key=lambda one: one.pods or 0.0, default=None)
    if most is not None and (most.pods or 0.0) > need:
        need, words = most.pods or 0.0, most.words
    elif demand == 0 and waiting is None and policy.min == 0:
        words = "at zero, and no activator is heard that would notice a client"
        problems.append("no activator answers: a model at zero cannot wake; check its pods")
    wanted = {r.name: r.floor for r in seen.revisions}
    least = 1 if need > 0 else 0
    wanted[reference.name] = max(wanted[reference.name], floor, least, math.ceil(need - _ROUNDING))
    limit = _fit_bounds(wanted, seen, floor, max(policy.max, policy.min))
    if floor and not demand:
        words = f"at least {floor} wanted"
    words += f"; {limit}" if limit else ""
    accepted = waiting.accepted if waiting is not None else None
    state = replace(state, accepted=accepted)
    return state, _decision(state, seen, wanted, need, words, problems, None, held=blind, curve=curve)


def _ask(
    policy: Policy, state: State, seen: Observation, demand: Demand | None, curve: ServiceCurve | None
) -> _Asked:
    if demand is None:
        return _Asked(None, _silence(state, seen), (), 0.0, True)
    load = Load(
        rate=demand.rate,
        stable=demand.stable,
        recent=demand.recent,
        curve=curve,
        dispersion=state.dispersion,
        ready=sum(r.ready for r in seen.revisions),
        correction=state.correction,
        recent_window=policy.panic_window,
        utilization=policy.utilization,
        now=seen.now,
    )
    needs: list[Need] = [
        need_of(target, load, seen.external.get(index)) for index, target in enumerate(policy.targets)
    ] or [default_need(load)]
    problems = tuple(need.problem for need in needs if need.problem)
    readable = [need for need in needs if need.pods is not None and math.isfinite(need.pods)]
    if not readable:
        return _Asked(None, "", problems, 0.0, True)
    most = max(readable, key=lambda need: need.pods or 0.0)
    counted = max(demand.stable.rate * demand.stable.seconds, 1.0)
    noise = 0.0 if demand.before is not None else min(math.sqrt(state.dispersion / counted), 0.1)
    return _Asked(
        most.pods, most.words, problems, 0.0 if most.given else noise, len(readable) < len(needs), most.given
    )


def _silence(state: State, seen: Observation) -> str:
    if state.missing_since is not None:
        seconds = seen.now - state.missing_since
        return f"no data from {len(seen.ready_pods)} pods for {seconds:.0f} s: held"
    return "counters were read for the first time: held"


def _remember_need(policy: Policy, state: State, now: float, asked: _Asked, demand: Demand | None) -> State:
    """Keep the highest needs of the last windows, with the noise of their measurement on top."""
    horizon = 2 * policy.stable_window
    kept = [n for n in state.needs if n.at > now - horizon]
    if asked.pods is not None and demand is not None:
        requests = max(demand.stable.rate * demand.stable.seconds, 1.0)
        noise = 0.0 if asked.given else min(_DOWN_SIGMA * math.sqrt(state.dispersion / requests), 1.0)
        pods = asked.pods * (1 + noise)
        width = horizon / (_NEEDS_KEPT - 2)
        if kept and now - kept[-1].at < width and len(kept) > 1 and kept[-1].at - kept[-2].at < width:
            kept[-1] = NeedAt(now, max(kept[-1].pods, pods))
        else:
            kept.append(NeedAt(now, pods))
    return replace(state, needs=tuple(kept[-_NEEDS_KEPT:]))


def _may_lower(policy: Policy, state: State, now: float, blind: bool) -> tuple[bool, str]:
    if blind:
        return False, "not lowered while a signal is missing"
    known = sum(entry.seconds for entry in state.entries if entry.coverage >= 0.99)
    whole = sum(entry.seconds for entry in state.entries)
    # A pod that has just become ready misses one look, which must not count as missing data.
    if known < 0.85 * policy.stable_window or (whole and known < 0.9 * whole):
        return False, f"not lowered before {policy.stable_window:.0f} s were seen without a gap"
    if not state.entries or state.entries[-1].coverage < 0.99:
        return False, "not lowered while a pod does not answer"
    if now - state.lowered_at < policy.stable_window / 4:
        return False, "lowered step by step"
    return True, "lowered once the need has been lower for two windows"


def _one(
    policy: Policy,
    state: State,
    seen: Observation,
    revision: RevisionLoad,
    reference: RevisionLoad | None,
    asked: _Asked,
    ready_to_lower: bool,
) -> int:
    """Give the pods of one revision: its share of the need, at its own speed, changed at the right pace."""
    current = revision.replicas
    if revision.weight <= 0:
        return revision.floor
    if asked.pods is None:
        return max(current, revision.floor, 1)
    share = _share(policy, state, seen.revisions, revision, reference)
    exact = asked.pods * share
    need = max(math.ceil(exact - _ROUNDING), revision.floor, 1)
    if need > current and exact <= current * (1 + _TOLERANCE + asked.noise):
        need = max(current, revision.floor)
    if need >= current:
        return need
    if not ready_to_lower:
        return current
    highest = max((n.pods for n in state.needs), default=asked.pods)
    low = max(math.ceil(highest * share * (1 + _TOLERANCE) - _ROUNDING), need)
    return max(min(low, current), current - max(1, int(current * _LOWER_SHARE)), revision.floor)


def _share(
    policy: Policy,
    state: State,
    revisions: tuple[RevisionLoad, ...],
    revision: RevisionLoad,
    reference: RevisionLoad | None,
) -> float:
    """Give a revision's part of the need; a slower one needs more pods for the same traffic."""
    weights = sum(r.weight for r in revisions if r.weight > 0)
    part = revision.weight / weights
    if reference is None or revision.name == reference.name or revision.name not in dict(state.fits):
        return part
    own, other = _curve(policy, state, revision), _curve(policy, state, reference)
    if own is None or other is None:
        return part
    return part * min(max(other.capacity / own.capacity, 0.5), 4.0)


def _fit_bounds(wanted: dict[str, int], seen: Observation, low: int, high: int) -> str:
    """Bring the sum between the bounds, in place; floors of a rollout stand above `max`. Give the reason."""
    floors = {r.name: r.floor for r in seen.revisions}
    limit, why = high, f"at max {high}"
    if seen.granted is not None and seen.granted < high:
        limit, why = seen.granted, f"the budget grants {seen.granted}"
    told = ""
    limit = max(limit, sum(floors.values()))
    while sum(wanted.values()) > limit:
        name = max(wanted, key=lambda n: (wanted[n] - floors[n], n))
        excess = sum(wanted.values()) - limit
        wanted[name] -= min(excess, max(1, (wanted[name] - floors[name]) // 2))
        told = why
    short = min(low, limit) - sum(wanted.values())
    if short > 0 and wanted:
        heaviest = _reference(seen.revisions)
        if heaviest is not None:
            wanted[heaviest.name] += short
            told = f"at least {low} wanted"
    return told


def _correct(policy: Policy, state: State, demand: Demand, seen: Observation) -> State:
    """Compare the promise with what was measured: a model that errs is corrected within bounds."""
    objective = next((t for t in policy.targets if t.seconds and t.signal is Signal.LATENCY), None)
    stable = demand.stable
    counted = policy.counted_objective
    if objective is None or counted is None or abs(objective.seconds - counted) > 0.01 * counted:
        return state  # the pods count slowness against another objective
    if stable.slow_share is None or stable.judged < 50:
        return state
    ready = sum(r.ready for r in seen.revisions)
    settled = ready > 0 and all(entry.ready == ready for entry in state.entries) and demand.before is None
    if not settled or any(r.ready < r.replicas for r in seen.revisions):
        return state
    allowed = 1 - objective.percentile
    noise = 3 * math.sqrt(allowed * (1 - allowed) / stable.judged)
    if stable.slow_share > allowed + noise:
        return replace(state, correction=min(state.correction * 1.005, 3.0))
    if stable.slow_share < allowed / 2:
        return replace(state, correction=max(state.correction * 0.9995, 1.0))
    return state


def _decision(
    state: State,
    seen: Observation,
    wanted: dict[str, int],
    need: float | None,
    words: str,
    problems: list[str],
    demand: Demand | None,
    *,
    held: bool,
    curve: ServiceCurve | None,
) -> Decision:
    before = sum(r.replicas for r in seen.revisions)
    after = sum(wanted.values())
    change = f"{before} -> {after}" if after != before else f"{after}"
    return Decision(
        replicas=dict(wanted),
        total=after,
        need=need,
        reason=f"{change}: {words}",
        held=held,
        problems=tuple(problems),
        readiness_seconds=state.readiness_seconds if state.readiness else None,
        forecast=demand.forecast if demand is not None else "",
        rate=demand.rate if demand is not None else 0.0,
        curve=curve,
    )
