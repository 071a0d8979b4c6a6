"""All signals of a rollout together: state in, a look in, state and a judgement out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from longshore.plan.analysis.comparison import (
    BETTER_RATIOS,
    HARMLESS_RATIOS,
    WORSE_RATIOS,
    Compared,
    Count,
    Estimate,
    Limits,
    Tick,
    abort_evidence,
    estimate,
    observe,
    promote_evidence,
    suspicious,
    verdict,
)
from longshore.plan.analysis.distribution import Bounds, Distributions, Shift, observe_shift
from longshore.plan.analysis.settings import Settings
from longshore.plan.analysis.signals import (
    Agreement,
    Finding,
    HookAnswer,
    Reading,
    Watched,
    judge_agreement,
    observe_agreement,
    observe_hook,
    observe_metric,
)
from longshore.plan.analysis.verdict import Verdict, combine
from longshore.plan.analysis.words import comparison_sentence, duration

ERRORS = "errors"
LATENCY = "latency"

_SILENCE = 60.0
"""Seconds without a request to the canary after which what is known counts as old."""

_LONGEST_TEXT = 800
"""Characters of a judgement, so that it fits into status together with what the rollout adds."""

_LONGEST_TICK = 60.0
"""A longer gap between looks (operator down, clock jump) counts as this much time without data."""


@dataclass(frozen=True)
class Look:
    """What was seen since the look before; a signal that was not looked at is left out.

    Attributes:
        seconds: time since the look before.
        errors: requests and errors on both sides.
        latency: requests and slow requests on both sides.
        distributions: predictions since the canary began, by signal name.
        agreement: answers compared and how many differed, by signal name.
        metrics: (canary, stable) readings by signal name.
        hooks: answers by signal name.
        problem: why the counters could not be read at all; None when they could.
    """

    seconds: float
    errors: Tick | None = None
    latency: Tick | None = None
    distributions: Mapping[str, Distributions] = field(default_factory=dict)
    agreement: Mapping[str, Count] = field(default_factory=dict)
    metrics: Mapping[str, tuple[Reading, Reading | None]] = field(default_factory=dict)
    hooks: Mapping[str, HookAnswer] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class AnalysisState:
    """All that is remembered of an analysis; starts anew with every canary.

    Attributes:
        errors: the error comparison.
        latency: the comparison of slow requests.
        shifts: by signal name.
        agreement: by signal name.
        watched: metrics and web hooks by signal name.
        silent: seconds since the canary last got a request (or a compared one).
        unknown: seconds for which some signal has held the rollout by NoData or Error.
        problem: why the counters could not be read at the last look.
    """

    errors: Compared = field(default_factory=Compared)
    latency: Compared = field(default_factory=Compared)
    shifts: Mapping[str, Shift] = field(default_factory=dict)
    agreement: Mapping[str, Agreement] = field(default_factory=dict)
    watched: Mapping[str, Watched] = field(default_factory=dict)
    silent: float = 0.0
    unknown: float = 0.0
    problem: str | None = None


@dataclass(frozen=True)
class SignalReport:
    """What one signal says.

    Attributes:
        name: name of the signal.
        verdict: what is known.
        text: a sentence for a person.
        worse: log evidence that the canary is worse; None where the signal has none.
        good: log evidence that it is not harmful; None where the signal has none.
    """

    name: str
    verdict: Verdict
    text: str
    worse: float | None = None
    good: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What all signals say together.

    Attributes:
        verdict: the combined verdict.
        text: the sentence that matters most: the failing signal's, else the holding one's, else all.
        signals: every signal.
        suspicious: there is evidence against the canary, short of what aborts: no more weight yet.
        overdue: NoData or Error has lasted for longer than noDataDeadline.
        seconds_to_decision: estimate of the data time until Pass or Fail; None if none is in sight.
        thin: traffic is below what a decision within noDataDeadline needs; synthetic load would help.
    """

    verdict: Verdict
    text: str
    signals: tuple[SignalReport, ...]
    suspicious: bool = False
    overdue: bool = False
    seconds_to_decision: float | None = None
    thin: bool = False


def look_at(settings: Settings, before: AnalysisState, look: Look) -> AnalysisState:
    """Take one look into account. Total: a strange look is left out, never raised on."""
    seconds = min(max(0.0, look.seconds), _LONGEST_TICK)
    requests = max(
        look.errors.canary.requests if look.errors else 0,
        sum(count.requests for count in look.agreement.values()),
    )
    after = AnalysisState(
        errors=_compared(settings.errors, before.errors, look.errors),
        latency=_compared(settings.latency, before.latency, look.latency),
        shifts={
            name: _shifted(bounds, before.shifts.get(name, Shift()), look.distributions.get(name))
            for name, bounds in settings.distribution
        },
        agreement={
            name: observe_agreement(
                bound, before.agreement.get(name, Agreement()), look.agreement[name], seconds
            )
            if name in look.agreement
            else before.agreement.get(name, Agreement())
            for name, bound in settings.agreement
        },
        watched=_watched(settings, before, look),
        silent=0.0 if requests else min(before.silent + seconds, 1e9),
        unknown=before.unknown,
        problem=look.problem,
    )
    holds = judge(settings, after).verdict.holds
    return replace(after, unknown=min(before.unknown + seconds, 1e9) if holds else 0.0)


def judge(settings: Settings, state: AnalysisState) -> Judgement:
    """Say what is known."""
    reports = tuple(_reports(settings, state))
    combined = combine(report.verdict for report in reports)
    told = [report for report in reports if report.verdict is combined]
    overdue = combined.holds and state.unknown >= settings.no_data_deadline
    # How many answers were compared is told while it goes on, whatever it waits for.
    compared = {name for name, _ in settings.agreement} if combined is not Verdict.FAIL else set()
    beside = [r for r in reports if r.name in compared and r.verdict is not combined]
    text = _clipped("; ".join(report.text for report in (*told, *beside)))
    if overdue:
        text += f" (for {duration(state.unknown)}, noDataDeadline is {duration(settings.no_data_deadline)})"
    watched = [(settings.errors, state.errors)]
    if settings.latency:
        watched.append((settings.latency, state.latency))
    estimates = [found for limits, compared in watched if (found := estimate(limits, compared))]
    to_decision = _to_decision(estimates, len(watched))
    undecided = combined in (Verdict.INCONCLUSIVE, Verdict.NO_DATA)
    return Judgement(
        verdict=combined,
        text=text,
        signals=reports,
        suspicious=any(suspicious(limits, compared) for limits, compared in watched)
        or any(watch.breaches for watch in state.watched.values()),
        overdue=overdue,
        seconds_to_decision=to_decision,
        thin=undecided and (to_decision is None or to_decision > settings.no_data_deadline),
    )


def dump_state(state: AnalysisState) -> dict[str, Any]:
    """Give the state as JSON values, floats to six decimals, for status."""
    return _rounded(_ADAPTER.dump_python(state, mode="json"))  # type: ignore[no-any-return]


def load_state(raw: object) -> AnalysisState | None:
    """Read what `dump_state` wrote; None where it is not readable (then evidence starts anew, and says
    so)."""
    try:
        state = _ADAPTER.validate_python(raw, strict=False)
    except (ValidationError, ValueError, RecursionError):
        return None
    fits = all(
        len(compared.worse.logs) == len(WORSE_RATIOS)
        and len(compared.no_worse.logs) == len(BETTER_RATIOS)
        and len(compared.harmless.logs) == len(HARMLESS_RATIOS)
        for compared in (state.errors, state.latency)
    ) and all(
        len(agreement.worse.logs) == len(WORSE_RATIOS) and len(agreement.good.logs) == 2
        for agreement in state.agreement.values()
    )
    return state if fits else None


_ADAPTER = TypeAdapter(AnalysisState)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value


def _compared(limits: Limits | None, before: Compared, tick: Tick | None) -> Compared:
    return before if limits is None or tick is None else observe(limits, before, tick)


def _shifted(bounds: Bounds, before: Shift, seen: Distributions | None) -> Shift:
    return before if seen is None else observe_shift(bounds, before, seen)


def _watched(settings: Settings, before: AnalysisState, look: Look) -> dict[str, Watched]:
    watched: dict[str, Watched] = {}
    for name, bounds in settings.metrics:
        earlier = before.watched.get(name, Watched())
        if name in look.metrics:
            canary, stable = look.metrics[name]
            earlier = observe_metric(bounds, earlier, canary, stable)
        watched[name] = earlier
    for name in settings.hooks:
        earlier = before.watched.get(name, Watched())
        watched[name] = observe_hook(earlier, look.hooks[name]) if name in look.hooks else earlier
    return watched


def _reports(settings: Settings, state: AnalysisState) -> list[SignalReport]:
    reports = [_comparison_report(ERRORS, settings.errors, state.errors, "errors", state)]
    if settings.latency is not None:
        reports.append(_comparison_report(LATENCY, settings.latency, state.latency, "slow requests", state))
    for name, bounds in settings.distribution:
        reports.append(_shift_report(name, bounds, state.shifts.get(name, Shift())))
    for name, bound in settings.agreement:
        found = judge_agreement(
            bound,
            settings.errors.false_abort,
            settings.errors.false_promote,
            state.agreement.get(name, Agreement()),
        )
        reports.append(_finding_report(name, found))
    watched = (*(name for name, _ in settings.metrics), *settings.hooks)
    reports.extend(_finding_report(name, state.watched.get(name, Watched()).finding) for name in watched)
    return reports


def _comparison_report(
    name: str, limits: Limits, compared: Compared, failures: str, state: AnalysisState
) -> SignalReport:
    decided = verdict(limits, compared)
    text = comparison_sentence(limits, compared, failures)
    if decided is not Verdict.FAIL:
        if state.problem is not None:
            decided, text = Verdict.ERROR, f"counters cannot be read: {state.problem}"
        elif compared.canary.requests and state.silent >= _SILENCE:
            decided = Verdict.NO_DATA
            text = f"no request to the canary for {duration(state.silent)}; before that, {text}"
    return SignalReport(name, decided, text, abort_evidence(compared), promote_evidence(compared))


def _shift_report(name: str, bounds: Bounds, shift: Shift) -> SignalReport:
    if shift.looks == 0:
        return SignalReport(
            name, shift.verdict, f"{name}: {shift.answers} canary predictions, too few to compare yet"
        )
    text = f"{name}: PSI {shift.psi:.3f} (bound {bounds.psi:g})"
    if shift.ks:
        text += f", KS {shift.ks:.3f} (bound {bounds.ks:g})"
    return SignalReport(name, shift.verdict, f"{text} over {shift.answers:,} canary predictions")


def _finding_report(name: str, found: Finding) -> SignalReport:
    return SignalReport(name, found.verdict, f"{name}: {found.text}")


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _to_decision(estimates: list[Estimate], metrics: int) -> float | None:
    """Nearest Fail decides alone; for Pass the slowest metric decides, and all must have an estimate."""
    failing = [found.seconds for found in estimates if found.verdict is Verdict.FAIL]
    if failing:
        return float(min(failing))
    return float(max(found.seconds for found in estimates)) if len(estimates) == metrics else None
