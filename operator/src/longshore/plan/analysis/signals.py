"""Signals beside the two counters: agreement of answers, metrics of a Prometheus server, web hooks.

A metric or a web hook comes without a sample size, so no error probability can be stated for it: a bound
must be broken `BREACHES` looks in a row, which keeps a lone spike from aborting, and that is all that is
claimed.
"""

import json
import math
from dataclasses import dataclass, field

from longshore.plan.analysis.comparison import NOTHING, WORSE, WORSE_RATIOS, Count, binomial_log_ratio
from longshore.plan.analysis.evidence import Evidence, Mixture
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.analysis.words import certainty, percent

BREACHES = 3
"""Looks in a row that must break a bound before it fails."""

_TEXT = 256

_AGREES = Mixture(weights=(2 / 3, 1 / 3))
_AGREES_RATIOS = (1.0, 0.4)
_AGREES_HARM = 2.0
"""Twice the bound is what is ruled out before agreement passes: proving the bound itself could take for
ever."""


@dataclass(frozen=True)
class Finding:
    """What one signal says.

    Attributes:
        verdict: what is known.
        text: a sentence for a person, without a full stop.
    """

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Agreement:
    """What is remembered of compared answers.

    Attributes:
        compared: answers compared, and how many differed.
        worse: evidence against "the share that differs is at most the bound".
        good: evidence against "the share that differs is at least twice the bound".
    """

    compared: Count = NOTHING
    worse: Evidence = field(default_factory=WORSE.start)
    good: Evidence = field(default_factory=_AGREES.start)


def observe_agreement(bound: float, before: Agreement, seen: Count, seconds: float) -> Agreement:
    """Take the answers compared since the last look into account; `bound` is a share between 0 and 1."""
    bound = _inside(bound)
    twice = _inside(_AGREES_HARM * bound)
    return Agreement(
        compared=before.compared + seen,
        worse=WORSE.advance(
            before.worse, [binomial_log_ratio(seen, _odds(bound, r), bound) for r in WORSE_RATIOS], seconds
        ),
        good=_AGREES.advance(
            before.good,
            [binomial_log_ratio(seen, min(_inside(bound * r), twice), twice) for r in _AGREES_RATIOS],
            seconds,
        ),
    )


def judge_agreement(bound: float, false_abort: float, false_promote: float, state: Agreement) -> Finding:
    """Say whether answers of the canary differ from the stable revision's more often than allowed."""
    if not state.compared.requests:
        return Finding(Verdict.NO_DATA, "no answers compared yet")
    seen = (
        f"{state.compared.failures:,} of {state.compared.requests:,} compared answers differ "
        f"({percent(state.compared.rate)}, allowed {percent(bound)})"
    )
    worse, good = WORSE.value(state.worse), _AGREES.value(state.good)
    if worse >= -math.log(false_abort):
        return Finding(Verdict.FAIL, f"{seen}: {certainty(worse)} evidence that it is too many")
    if good >= -math.log(false_promote):
        return Finding(Verdict.PASS, seen)
    return Finding(Verdict.INCONCLUSIVE, f"{seen}: not yet enough to decide")


@dataclass(frozen=True)
class Reading:
    """One answer of a Prometheus server.

    Attributes:
        value: the number; None where the query gave no series.
        error: the server's own message where it refused or could not be asked.
    """

    value: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class MetricBounds:
    """What a metric may be; None asks nothing."""

    max: float | None = None
    min: float | None = None
    max_ratio: float | None = None


@dataclass(frozen=True)
class Watched:
    """What is remembered of a metric or a web hook.

    Attributes:
        breaches: looks in a row that broke a bound.
        finding: what the last look said.
    """

    breaches: int = 0
    finding: Finding = Finding(Verdict.NO_DATA, "not asked yet")


def observe_metric(bounds: MetricBounds, before: Watched, canary: Reading, stable: Reading | None) -> Watched:
    """Judge one look at a metric; `stable` is only needed for a ratio."""
    needed = [("canary", canary)]
    if bounds.max_ratio is not None:
        needed.append(("stable", stable if stable is not None else Reading()))
    for name, reading in needed:
        if reading.error is not None:
            return Watched(
                before.breaches,
                Finding(Verdict.ERROR, f"query for the {name} failed: {_short(reading.error)}"),
            )
    for name, reading in needed:
        if reading.value is None or not math.isfinite(reading.value):
            return Watched(
                before.breaches, Finding(Verdict.NO_DATA, f"the query gives no value for the {name}")
            )
    broken = _broken(bounds, canary.value or 0.0, (stable.value or 0.0) if stable is not None else 0.0)
    return _counted(before, broken, f"{canary.value:g} is within its bounds")


@dataclass(frozen=True)
class HookAnswer:
    """What a web hook answered.

    Attributes:
        status: HTTP status, None where it could not be reached.
        body: beginning of the body.
        error: why it could not be reached.
    """

    status: int | None = None
    body: str = ""
    error: str | None = None


def observe_hook(before: Watched, answer: HookAnswer) -> Watched:
    """Judge one answer of a web hook.

    A 2xx without a body passes; a JSON object may say
    `{"verdict": "Pass" | "Fail" | "Inconclusive" | "NoData", "message": ...}`. Anything
    else is an Error and holds: a hook that is down says nothing about the canary.
    """
    if answer.status is None:
        return Watched(
            before.breaches, Finding(Verdict.ERROR, f"not reached: {_short(answer.error or 'no answer')}")
        )
    if not 200 <= answer.status < 300:
        return Watched(
            before.breaches,
            Finding(Verdict.ERROR, f"answered {answer.status}: {_short(answer.body) or 'no body'}"),
        )
    if not answer.body.strip():
        return Watched(0, Finding(Verdict.PASS, f"answered {answer.status}"))
    try:
        said = json.loads(answer.body)
        verdict = Verdict(said["verdict"])
        message = _short(str(said.get("message", ""))) or f"said {verdict}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Watched(
            before.breaches,
            Finding(
                Verdict.ERROR,
                'answer is no JSON object with "verdict": "Pass", "Fail", "Inconclusive" or "NoData": '
                + _short(answer.body),
            ),
        )
    if verdict is Verdict.FAIL:
        return Watched(before.breaches + 1, Finding(Verdict.FAIL, message))
    return Watched(0 if verdict is Verdict.PASS else before.breaches, Finding(verdict, message))


def _broken(bounds: MetricBounds, canary: float, stable: float) -> str | None:
    if bounds.max is not None and canary > bounds.max:
        return f"{canary:g} is above max {bounds.max:g}"
    if bounds.min is not None and canary < bounds.min:
        return f"{canary:g} is below min {bounds.min:g}"
    if bounds.max_ratio is not None and canary > bounds.max_ratio * stable:
        return f"{canary:g} is more than {bounds.max_ratio:g} times the stable revision's {stable:g}"
    return None


def _counted(before: Watched, broken: str | None, fine: str) -> Watched:
    if broken is None:
        return Watched(0, Finding(Verdict.PASS, fine))
    breaches = min(before.breaches + 1, BREACHES)
    if breaches >= BREACHES:
        return Watched(breaches, Finding(Verdict.FAIL, f"{broken}, {BREACHES} looks in a row"))
    return Watched(breaches, Finding(Verdict.INCONCLUSIVE, f"{broken}, look {breaches} of {BREACHES}"))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT else line[: _TEXT - 1] + "…"


def _inside(p: float) -> float:
    return min(max(p, 1e-6), 0.5)


def _odds(p: float, ratio: float) -> float:
    return p * ratio / (1 - p + p * ratio)
