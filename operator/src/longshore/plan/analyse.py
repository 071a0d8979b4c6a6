"""From what the pods told to what is known about a canary."""

from collections.abc import Mapping
from typing import Any

from longshore.api import Spec
from longshore.plan.analysis.comparison import Tick
from longshore.plan.analysis.counters import PodSample, increments
from longshore.plan.analysis.judge import (
    AnalysisState,
    Judgement,
    Look,
    dump_state,
    judge,
    load_state,
    look_at,
)
from longshore.plan.analysis.settings import settings_of
from longshore.plan.state import Analysed, Observed
from longshore.plan.telemetry import PodReading, Telemetry


def analyse(observed: Observed, spec: Spec, canary: str, stable: str | None) -> tuple[Analysed, Judgement]:
    """Take the latest readings into account, each once, and judge."""
    settings = settings_of(spec.rollout.analysis, spec.serving.latency_objective is not None)
    before = _remembered(observed, canary)
    telemetry = observed.telemetry
    if telemetry is None or stable is None or telemetry.at <= before.looked_at:
        return before, judge(settings, before.state)
    baselines: dict[str, Mapping[str, PodSample]] = {}
    counted = {}
    for revision in (canary, stable):
        counted[revision], baselines[revision] = increments(
            before.baselines.get(revision, {}),
            _samples(observed, telemetry, revision),
            frozenset(pod.name for pod in observed.pods_of(revision) if not pod.deleting),
            telemetry.at,
            settings.warmup,
        )
    elapsed = telemetry.at - before.looked_at if before.looked_at else 0.0
    new, old = counted[canary], counted[stable]
    silent = any(side.unanswered and not side.counted and not side.warming for side in (new, old))
    look = Look(
        seconds=elapsed,
        errors=Tick(new.errors, old.errors, elapsed),
        latency=Tick(new.slow, old.slow, elapsed) if settings.latency else None,
        problem=_why_silent(telemetry) if silent else None,
    )
    after = Analysed(canary, look_at(settings, before.state, look), telemetry.at, baselines)
    return after, judge(settings, after.state)


def dump(analysed: Analysed) -> dict[str, Any]:
    """Give what outlives the process, as JSON values for status."""
    return {"revision": analysed.revision, "state": dump_state(analysed.state)}


def _remembered(observed: Observed, canary: str) -> Analysed:
    if observed.analysed is not None and observed.analysed.revision == canary:
        return observed.analysed
    raw = observed.status.get("rollout", {}).get("analysis") or {}
    state = load_state(raw.get("state")) if raw.get("revision") == canary else None
    return Analysed(canary, state or AnalysisState())


def _samples(observed: Observed, telemetry: Telemetry, revision: str) -> dict[str, PodSample]:
    ready = {pod.name: pod.ready_since for pod in observed.pods_of(revision)}
    return {
        reading.pod: _sample(reading, ready.get(reading.pod))
        for reading in telemetry.readings
        if reading.revision == revision and "requests" in reading.values
    }


def _sample(reading: PodReading, ready_since: float | None) -> PodSample:
    values = reading.values
    return PodSample(
        requests=int(values["requests"]),
        errors=int(values.get("errors", 0)),
        slow=int(values.get("slow", 0)),
        ready_since=ready_since,
        process=reading.process,
    )


def _why_silent(telemetry: Telemetry) -> str:
    pod, why = next(iter(sorted(telemetry.unanswered.items())), ("", "no pod answers"))
    return f"pod {pod}: {why}" if pod else why
