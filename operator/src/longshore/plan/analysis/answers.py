"""Do two revisions answer the same request alike? Used by the preflight and for mirrored requests.

Answers are JSON as in the Open Inference Protocol v2 (https://github.com/open-inference/open-inference-protocol);
anything else that is JSON is compared by the same rules.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longshore.plan.analysis.signals import Finding
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.analysis.words import percent

_IGNORED = frozenset({"id", "model_name", "model_version", "parameters"})
"""Members of an answer that name the model and the request, not what was predicted."""

_DEEPEST = 64


@dataclass(frozen=True)
class Asked:
    """One recorded request, sent to both revisions.

    Attributes:
        canary: the new revision's answer; None where it failed.
        stable: the stable revision's answer; None where it failed too, or where there is none to ask.
        seconds: how long the new revision took.
        error: how the new revision failed, a sentence.
    """

    canary: Any
    stable: Any
    seconds: float = 0.0
    error: str = ""


def same_answer(a: Any, b: Any, tolerance: float) -> bool:
    """Tell whether two answers say the same.

    Numbers of one list may differ by `tolerance` times the largest magnitude in both lists: a probability
    near zero need not agree to a share of itself. NaN is the same as NaN; texts, shapes and types must be equal.
    """
    return _same(a, b, tolerance, 0)


def judge_preflight(
    asked: Sequence[Asked], max_disagreement: float, tolerance: float, objective: float | None
) -> Finding:
    """Judge recorded requests that were sent before any weight.

    Args:
        asked: the requests and both answers.
        max_disagreement: largest share of answers that may differ, 0 to 1.
        tolerance: see `same_answer`.
        objective: latency objective in seconds, for the 95th percentile; None: there is none.
    """
    if not asked:
        return Finding(Verdict.NO_DATA, "there are no recorded requests to ask")
    failed = [one for one in asked if one.canary is None and (one.stable is not None or one.error)]
    only_new = [one for one in failed if one.stable is not None]
    if only_new or len(failed) == len(asked):
        first = next((one.error for one in failed if one.error), "no answer")
        return Finding(Verdict.FAIL, f"{len(failed)} of {len(asked)} recorded requests failed: {first}")
    compared = [one for one in asked if one.canary is not None and one.stable is not None]
    differing = sum(not same_answer(one.canary, one.stable, tolerance) for one in compared)
    if compared and differing > max_disagreement * len(compared):
        return Finding(
            Verdict.FAIL,
            f"{differing} of {len(compared)} answers differ from the stable revision's "
            f"({percent(differing / len(compared))}, allowed {percent(max_disagreement)})",
        )
    times = sorted(one.seconds for one in asked if one.canary is not None)
    slowest = times[math.ceil(0.95 * len(times)) - 1] if times else 0.0
    if objective is not None and slowest > objective:
        return Finding(
            Verdict.FAIL,
            f"95 % of answers took up to {1000 * slowest:.0f} ms, the objective is {1000 * objective:.0f} ms",
        )
    if not compared:
        return Finding(
            Verdict.NO_DATA, f"{len(times)} answers, but none of the stable revision to compare with"
        )
    return Finding(
        Verdict.PASS,
        f"{len(compared) - differing} of {len(compared)} answers agree, in {1000 * slowest:.0f} ms",
    )


def _same(a: Any, b: Any, tolerance: float, depth: int) -> bool:
    if depth > _DEEPEST:
        return False
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = {*a, *b} - _IGNORED
        return all(key in a and key in b and _same(a[key], b[key], tolerance, depth + 1) for key in keys)
    if _is_list(a) and _is_list(b):
        if len(a) != len(b):
            return False
        if all(map(_is_number, a)) and all(map(_is_number, b)):
            return _close(a, b, tolerance)
        return all(_same(x, y, tolerance, depth + 1) for x, y in zip(a, b, strict=True))
    if _is_number(a) and _is_number(b):
        return _close((a,), (b,), tolerance)
    return type(a) is type(b) and bool(a == b)


def _close(a: Sequence[float], b: Sequence[float], tolerance: float) -> bool:
    largest = max((abs(x) for x in (*a, *b) if math.isfinite(x)), default=0.0)
    allowed = tolerance * largest
    return all(
        x == y or (x != x and y != y) or (math.isfinite(x) and math.isfinite(y) and abs(x - y) <= allowed)
        for x, y in zip(a, b, strict=True)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
