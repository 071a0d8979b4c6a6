"""From samples to one tick of the window and what they teach: all doubts about data end here."""

from dataclasses import dataclass, replace

from longshore.plan.scaling.counters import COUNTERS, Baseline, Delta, baseline_of, broken, difference, total
from longshore.plan.scaling.curve import CurveFit
from longshore.plan.scaling.forecast import seasonal
from longshore.plan.scaling.inputs import Observation, PodSample, Policy, clean
from longshore.plan.scaling.state import State
from longshore.plan.scaling.window import Tick, append, dispersion

STALE_SECONDS = 10.0
"""A sample read longer ago than this, or as long in the future, is not used."""

LONGEST_GAP = 30.0
"""Without a tick for longer than this, windows begin anew: averages over a hole mean nothing."""

_MAX_FITS = 3
_MAX_PODS = 2000
_MAX_STARTS = 8
_LEAST_COVERAGE = 0.34
"""Below this share of pods, what was seen is not scaled up to all."""


@dataclass(frozen=True)
class Gathered:
    """The state after a look, the tick it made (None: no time passed) and what was wrong."""

    state: State
    tick: Tick | None
    problems: tuple[str, ...]


def gather(policy: Policy, state: State, seen: Observation) -> Gathered:
    """Take in what was observed."""
    problems: list[str] = []
    state = _check_clock(state, seen.now, problems)
    first = state.at == 0.0
    elapsed = seen.now - state.at
    if not first and elapsed <= 0:
        return Gathered(state, None, tuple(problems))
    known = {b.pod: b for b in state.baselines}
    baselines: list[Baseline] = []
    deltas: list[Delta] = []
    read: list[PodSample] = []
    seen_ready = new = 0
    started = {start.pod: start.ready for start in seen.starts}
    missing: list[str] = []
    for sample in seen.samples[:_MAX_PODS]:
        if abs(seen.now - sample.at) > STALE_SECONDS:
            missing.append(f"{sample.pod}: its numbers are {seen.now - sample.at:.0f} s old")
            continue
        if wrong := broken(sample):
            missing.append(f"{sample.pod}: {', '.join(wrong)} is ignored")
        read.append(sample)
        before = known.get(sample.pod) or _from_start(sample, started, state.at)
        if before is not None and sample.at <= before.at:
            baselines.append(before)
            continue
        baselines.append(baseline_of(sample))
        if before is None:
            new += sample.pod in seen.ready_pods
            continue
        delta, why = difference(before, sample)
        if delta is None:
            missing.append(f"{sample.pod}: {why}")
            continue
        deltas.append(delta)
        seen_ready += sample.pod in seen.ready_pods
    answered = {sample.pod for sample in read}
    missing += [f"{pod}: no answer" for pod in sorted(seen.ready_pods - answered)]
    problems += missing[:3] + ([f"and {len(missing) - 3} more"] if len(missing) > 3 else [])
    # A pod seen for the first time had little of the traffic so far: it is not what is missing.
    expected = len(seen.ready_pods) - new
    wanted = sum(r.replicas for r in seen.revisions)
    # With no pod wanted, silence is a fact; with pods wanted and none ready, nothing is known.
    coverage = seen_ready / expected if expected else float(wanted == 0 or bool(deltas))
    tick = None if first else _tick(policy, seen, deltas, read, elapsed, min(coverage, 1.0))
    state = replace(state, at=seen.now, baselines=tuple(baselines))
    state = _learn(state, seen, read, deltas)
    if tick is not None:
        state = replace(
            state,
            entries=append(state.entries, tick, policy.stable_window),
            missing_since=None if coverage > 0 else (state.missing_since or seen.now),
        )
        burstiness = dispersion(state.entries)
        state = replace(state, dispersion=state.dispersion + 0.01 * (burstiness - state.dispersion))
        if policy.forecast_period is not None and coverage > 0:
            past = state.seasonal
            if past is None or past.period != policy.forecast_period:
                past = seasonal(policy.forecast_period)
            state = replace(state, seasonal=past.add(seen.now, tick.seconds, tick.arrivals / tick.seconds))
    return Gathered(state, tick, tuple(problems))


def _from_start(sample: PodSample, started: dict[str, float], last_look: float) -> Baseline | None:
    """Give zeros for a pod that became ready after the last look: all it counted is news."""
    ready = started.get(sample.pod)
    if ready is None or last_look == 0.0 or not last_look <= ready < sample.at:
        return None
    return Baseline(sample.pod, last_look, **dict.fromkeys(COUNTERS, 0.0), pending=0.0)


def _check_clock(state: State, now: float, problems: list[str]) -> State:
    if state.at == 0.0:
        return state
    moved = now - state.at
    if 0.0 <= moved <= LONGEST_GAP:
        return state
    what = (
        f"the clock went back by {-moved:.0f} s" if moved < 0 else f"nothing was looked at for {moved:.0f} s"
    )
    problems.append(f"{what}: windows begin anew and nothing is scaled down until one is full")
    return replace(state.learned(), at=0.0, lowered_at=now, starts_until=min(state.starts_until, now))


def _tick(
    policy: Policy,
    seen: Observation,
    deltas: list[Delta],
    read: list[PodSample],
    elapsed: float,
    coverage: float,
) -> Tick:
    scale = 1 / coverage if coverage >= _LEAST_COVERAGE else 1.0

    def amount(name: str) -> float:
        rates: list[float] = [
            value / delta.seconds for delta in deltas if (value := getattr(delta, name)) is not None
        ]
        return sum(rates) * elapsed * scale

    def gauge(name: str, high: float = 1e9) -> float | None:
        value = total([clean(getattr(sample, name), high=high) for sample in read])
        return None if value is None else value * scale

    gpu = [v for sample in read if (v := clean(sample.gpu_percent, high=100.0)) is not None]
    cpu = [d.cpu_seconds / d.seconds / policy.cores * 100 for d in deltas if d.cpu_seconds is not None]

    concurrency = gauge("in_flight")
    if concurrency is None and any(d.request_seconds is not None for d in deltas):
        concurrency = amount("request_seconds") / elapsed  # Little's law: L = sum of times / time
    judged = sum(d.succeeded / d.seconds for d in deltas if d.slow is not None) * elapsed * scale
    return Tick(
        at=seen.now,
        seconds=elapsed,
        coverage=coverage,
        arrivals=amount("arrivals"),
        requests=amount("succeeded"),
        executions=amount("executions"),
        queue_seconds=amount("queue_seconds"),
        slow=amount("slow"),
        judged=judged,
        concurrency=concurrency,
        pending=gauge("pending"),
        streams=gauge("open_streams"),
        cpu=sum(cpu) / len(cpu) if cpu else None,
        gpu=sum(gpu) / len(gpu) if gpu else None,
        ready=len(seen.ready_pods),
    )


def _learn(state: State, seen: Observation, read: list[PodSample], deltas: list[Delta]) -> State:
    fits = dict(state.fits)
    for revision in sorted({delta.revision for delta in deltas}):
        own = [d for d in deltas if d.revision == revision]
        compute = total([d.compute_seconds for d in own])
        requests = sum(d.succeeded for d in own if d.compute_seconds is not None)
        runs = total([d.executions for d in own if d.compute_seconds is not None]) or requests
        if compute is not None and compute > 0 and runs >= 1 and requests >= 1:
            fit = fits.pop(revision, CurveFit())
            fits[revision] = fit.add(max(requests / runs, 1.0), compute / runs, runs)
    rows, counted = total([d.rows for d in deltas]), sum(d.succeeded for d in deltas if d.rows is not None)
    per_request = state.rows_per_request
    if rows is not None and counted > 0 and rows > 0:
        per_request += 0.1 * (min(max(rows / counted, 1.0), 1e6) - per_request)
    workers = [int(w) for sample in read if (w := clean(sample.workers, low=1.0, high=1024.0)) is not None]
    starts = sorted((s for s in seen.starts if s.ready > state.starts_until), key=lambda s: s.ready)
    times = [s.ready - s.created for s in starts if 0 <= s.ready - s.created <= 3600 and s.ready <= seen.now]
    return replace(
        state,
        fits=tuple(fits.items())[-_MAX_FITS:],
        rows_per_request=per_request,
        workers=min(workers, default=state.workers),
        readiness=(*state.readiness, *times)[-_MAX_STARTS:],
        starts_until=max([state.starts_until, *(s.ready for s in starts if s.ready <= seen.now)]),
    )
