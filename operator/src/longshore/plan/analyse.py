"""From what the pods told to what is known about a canary."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from longshore.api import Spec
from longshore.api.rollout import SignalType, Strategy
from longshore.plan.analysis.comparison import Tick
from longshore.plan.analysis.counters import PodSample, increments
from longshore.plan.analysis.distribution import Distributions
from longshore.plan.analysis.judge import (
    AnalysisState,
    Judgement,
    Look,
    dump_state,
    judge,
    load_state,
    look_at,
)
from longshore.plan.analysis.predictions import (
    KINDS,
    Gathered,
    PodPredictions,
    distributions,
    gather,
    signal_name,
)
from longshore.plan.analysis.questions import Answers, Questions, questions_of
from longshore.plan.analysis.settings import Settings, settings_of
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.asking import ready_pods
from longshore.plan.mirror import compares_answers
from longshore.plan.rollout.model import Phase, RolloutState
from longshore.plan.state import Analysed, Exercise, Observed
from longshore.plan.supported import counts_predictions
from longshore.plan.telemetry import PodReading, Telemetry
from longshore.resources.names import mirror_key

_MIRRORED = "mirrored"
"""Place of the baselines of compared answers among those of the revisions, whose names are hashes."""


def analyse(observed: Observed, spec: Spec, canary: str, stable: str | None) -> tuple[Analysed, Judgement]:
    """Take the latest readings into account, each once, and judge."""
    before = _remembered(observed, canary)
    settings = _settings(observed, spec, before)
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
    mirrored, baselines[_MIRRORED] = increments(
        before.baselines.get(_MIRRORED, {}),
        _mirror_samples(telemetry, stable),
        frozenset(pod.name for pod in observed.pods_of(stable) if not pod.deleting),
        telemetry.at,
        0.0,
    )
    elapsed = telemetry.at - before.looked_at if before.looked_at else 0.0
    new, old = counted[canary], counted[stable]
    baking = _baking(observed)
    gathered = {
        revision: gather(
            before.gathered.get(revision, Gathered()),
            _predictions(observed, telemetry, revision),
            frozenset(pod.name for pod in observed.pods_of(revision) if not pod.deleting),
            telemetry.at,
            settings.warmup,
        )
        for revision in (canary, stable)
    }
    # Where only the stable side is silent, the canary would be held against the stable revision's past.
    silent = any(side.unanswered and not side.counted and not side.warming for side in (new, old))
    heard = _fresh(observed.answers, before)
    look = Look(
        seconds=elapsed,
        errors=Tick(new.errors, old.errors, elapsed),
        latency=Tick(new.slow, old.slow, elapsed) if settings.latency else None,
        agreement={name: mirrored.errors for name, _ in settings.agreement} if mirrored.counted else {},
        # While it bakes only one side has requests, and other hours have other ones.
        distributions={} if baking else _distributions(spec, gathered[canary], gathered[stable]),
        metrics=heard.metrics if heard else {},
        hooks=heard.hooks if heard else {},
        problem=_why_silent(telemetry) if silent else None,
    )
    after = Analysed(
        canary,
        look_at(settings, before.state, look),
        telemetry.at,
        baselines,
        gathered,
        heard.at if heard else before.answered_at,
    )
    return after, judge(settings, after.state)


def ask(observed: Observed, spec: Spec, state: RolloutState | None, analysed: str | None) -> Questions | None:
    """Give what others shall be asked about the revision that is analysed; None when there is nothing."""
    if state is None or analysed is None:
        return None
    baking = state.phase is Phase.BAKING
    stable = state.previous if baking else state.stable
    owner = observed.owner
    found = questions_of(spec.rollout.analysis, owner.namespace, owner.name, analysed, stable, baking)
    return found or None


def exercise(
    observed: Observed, spec: Spec, state: RolloutState | None, analysed: Analysed | None
) -> Exercise | None:
    """Give what may be sent while a canary is undecided; None where nothing is asked, or nothing is open."""
    load = spec.rollout.analysis.synthetic_load
    stepping = state is not None and state.phase is Phase.STEPPING
    if load is None or state is None or not stepping or analysed is None or state.stable is None:
        return None
    judgement = judge(_settings(observed, spec, analysed), analysed.state)
    if judgement.verdict in (Verdict.PASS, Verdict.FAIL):
        return None
    return Exercise(
        load.requests_per_second,
        ready_pods(observed, analysed.revision),
        ready_pods(observed, state.stable),
        judgement.thin,
        mirror_key(observed.owner),
    )


def compares_predictions(spec: Spec, analysed: str | None) -> bool:
    """Tell whether the pods shall be asked what they predict: that is much to tell, so only where needed."""
    asked = any(s.type is SignalType.DISTRIBUTION for s in spec.rollout.analysis.signals)
    return asked and analysed is not None


def dump(analysed: Analysed) -> dict[str, Any]:
    """Give what outlives the process, as JSON values for status."""
    return {"revision": analysed.revision, "state": dump_state(analysed.state)}


def _settings(observed: Observed, spec: Spec, before: Analysed) -> Settings:
    rollout, telemetry = spec.rollout, observed.telemetry or Telemetry()
    signals = [s.name for s in rollout.analysis.signals if s.type is SignalType.DISTRIBUTION]
    kinds = tuple(
        kind
        for kind in KINDS
        if any(kind in reading.predictions for reading in telemetry.readings)
        or any(signal_name(name, kind) in before.state.shifts for name in signals)
    )
    settings = settings_of(
        rollout.analysis,
        spec.serving.latency_objective is not None,
        shadow=rollout.strategy is Strategy.SHADOW,
        baking=_baking(observed),
        compares=compares_answers(spec),
        kinds=kinds,
    )
    return settings if counts_predictions(spec) else replace(settings, distribution=())


def _baking(observed: Observed) -> bool:
    state = observed.status.get("rollout", {}).get("state") or {}
    return bool(state.get("phase") == Phase.BAKING)


def _distributions(spec: Spec, canary: Gathered, stable: Gathered) -> dict[str, Distributions]:
    """Give what was predicted, under the name of every signal and kind."""
    return {
        signal_name(signal.name, kind): found
        for signal in spec.rollout.analysis.signals
        if signal.type is SignalType.DISTRIBUTION
        for kind, found in distributions(canary, stable).items()
    }


def _predictions(observed: Observed, telemetry: Telemetry, revision: str) -> dict[str, PodPredictions]:
    ready = {pod.name: pod.ready_since for pod in observed.pods_of(revision)}
    return {
        reading.pod: PodPredictions(reading.predictions, ready.get(reading.pod), reading.process)
        for reading in telemetry.readings
        # A pod that did not tell its predictions this time catches up with the next look.
        if reading.revision == revision and reading.predictions
    }


def _fresh(answers: Answers | None, before: Analysed) -> Answers | None:
    """Give a round of answers once, and only one about this canary."""
    if answers is None or answers.canary != before.revision or answers.at <= before.answered_at:
        return None
    return answers


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


def _mirror_samples(telemetry: Telemetry, stable: str | None) -> dict[str, PodSample]:
    """Give what the stable revision's pods compared; a pod whose server mirrors nothing is left out."""
    return {
        reading.pod: PodSample(
            requests=int(reading.values["compared"]),
            errors=int(reading.values.get("differing", 0)),
            ready_since=0.0,
            process=reading.process,
        )
        for reading in telemetry.readings
        if reading.revision == stable and "compared" in reading.values
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
