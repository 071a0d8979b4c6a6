"""Evidence in plain words: what a person reads in status and events."""

import math

from longshore.plan.analysis.comparison import (
    Compared,
    Count,
    Estimate,
    Limits,
    abort_evidence,
    estimate,
    promote_evidence,
    verdict,
)
from longshore.plan.analysis.verdict import Verdict

_NONE = 0.001
"""Log evidence below this reads as none."""


def percent(share: float) -> str:
    """Write a share as percent, to a tenth, and below that to one digit: 12 %, 1.7 %, 0.4 %, 0.04 %."""
    value = 100 * share
    if value < 1e-6:
        return "0 %" if value <= 0 else "under 0.000001 %"
    digits = max(1, -math.floor(math.log10(value)))
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") + " %"


def certainty(log_evidence: float) -> str:
    """Write log evidence e as 1 - 1/exp(e), rounded down so that it never claims a line it has not
    crossed."""
    if log_evidence < _NONE:
        return "no"
    value = math.floor(1000 * -math.expm1(-log_evidence)) / 10
    return "over 99.9 %" if value >= 99.9 else f"{value:.1f} %"


def duration(seconds: float) -> str:
    """Write a time span for a person: 40 s, 4 min, 3.5 h, 2 days."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{round(seconds / 86400)} days"


def side(name: str, count: Count, failures: str = "") -> str:
    """Write one side's count: canary 14 errors of 812 (1.7 %)."""
    return f"{name} {count.failures:,} {failures}of {count.requests:,} ({percent(count.rate)})"


def comparison_sentence(limits: Limits, state: Compared, failures: str = "errors") -> str:
    """Say what was seen, what it proves and how long a decision may take.

    Args:
        limits: what is asked of the canary.
        state: what was observed.
        failures: what is counted: "errors", or "slow requests".
    """
    if not state.canary.requests:
        return f"no requests to the canary yet, so nothing is known about {failures}"
    seen = f"{side('canary', state.canary, f'{failures} ')}, {side('stable', state.stable)}"
    worse, good = abort_evidence(state), promote_evidence(state)
    decided = verdict(limits, state)
    if decided is Verdict.FAIL:
        return f"{seen}: {certainty(worse)} evidence that it is worse"
    if decided is Verdict.PASS:
        return f"{seen}: {certainty(good)} evidence that it is not harmful"
    if max(worse, good) < _NONE:
        known = "no evidence either way"
    elif worse >= good:
        known = f"{certainty(worse)} evidence that it is worse, {_line(limits.false_abort)} aborts"
    else:
        known = f"{certainty(good)} evidence that it is not harmful, {_line(limits.false_promote)} promotes"
    return f"{seen}: {known}{_when(estimate(limits, state))}"


def _line(error: float) -> str:
    return f"{100 * (1 - error):.5g} %"


def _when(expected: Estimate | None) -> str:
    if expected is None:
        return "; no decision in sight at these rates"
    return f"; {expected.verdict} expected in about {duration(expected.seconds)}"
