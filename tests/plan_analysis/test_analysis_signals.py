import math

import pytest
from longshore.plan.analysis.comparison import Count
from longshore.plan.analysis.signals import (
    Agreement,
    HookAnswer,
    MetricBounds,
    Reading,
    Watched,
    judge_agreement,
    observe_agreement,
    observe_hook,
    observe_metric,
)
from longshore.plan.analysis.verdict import Verdict, combine


def agreed(bound: float, compared: int, differing: int, ticks: int) -> Verdict:
    state = Agreement()
    for _ in range(ticks):
        state = observe_agreement(bound, state, Count(compared, differing), 2.0)
    return judge_agreement(bound, 0.01, 0.05, state).verdict


def test_agreement_beyond_its_bound_fails_and_within_passes() -> None:
    assert agreed(0.05, 20, 6, 10) is Verdict.FAIL
    assert agreed(0.05, 20, 0, 20) is Verdict.PASS
    assert agreed(0.05, 20, 0, 1) is Verdict.INCONCLUSIVE
    assert agreed(0.05, 0, 0, 5) is Verdict.NO_DATA


@pytest.mark.parametrize("bound", [1e-9, 0.5, 10.0])
def test_any_bound_of_agreement_is_judged(bound: float) -> None:
    assert agreed(bound, 10, 10, 30) in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)


def looks(bounds: MetricBounds, *values: tuple[Reading, Reading | None]) -> Watched:
    watched = Watched()
    for canary, stable in values:
        watched = observe_metric(bounds, watched, canary, stable)
    return watched


def test_a_lone_spike_does_not_fail_but_three_looks_do() -> None:
    bounds = MetricBounds(max=2.0)
    high, low = (Reading(3.0), None), (Reading(1.0), None)
    assert looks(bounds, high, high).finding.verdict is Verdict.INCONCLUSIVE
    assert looks(bounds, high, high, low, high).finding.verdict is Verdict.INCONCLUSIVE
    failed = looks(bounds, high, high, high).finding
    assert failed.verdict is Verdict.FAIL
    assert "3 is above max 2" in failed.text


def test_relative_bound_compares_with_stable() -> None:
    bounds = MetricBounds(max_ratio=1.5)
    worse = (Reading(2.0), Reading(1.0))
    assert looks(bounds, worse, worse, worse).finding.verdict is Verdict.FAIL
    assert looks(bounds, (Reading(1.4), Reading(1.0))).finding.verdict is Verdict.PASS
    assert looks(bounds, (Reading(1.4), None)).finding.verdict is Verdict.NO_DATA


def test_lower_bound() -> None:
    low = (Reading(0.1), None)
    assert looks(MetricBounds(min=0.5), low, low, low).finding.verdict is Verdict.FAIL


def test_query_with_a_typo_is_an_error_with_the_servers_message() -> None:
    typo = (Reading(error='parse error at char 7: unexpected "}"'), None)
    found = looks(MetricBounds(max=1.0), typo, typo, typo, typo).finding
    assert found.verdict is Verdict.ERROR
    assert "parse error at char 7" in found.text


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_no_number_is_no_data(value: float | None) -> None:
    assert looks(MetricBounds(max=1.0), (Reading(value), None)).finding.verdict is Verdict.NO_DATA


def test_errors_do_not_forgive_breaches() -> None:
    high, typo = (Reading(3.0), None), (Reading(error="503"), None)
    assert looks(MetricBounds(max=1.0), high, high, typo, high).finding.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (HookAnswer(200, ""), Verdict.PASS),
        (HookAnswer(204), Verdict.PASS),
        (HookAnswer(200, '{"verdict": "Fail", "message": "the auditor says no"}'), Verdict.FAIL),
        (HookAnswer(200, '{"verdict": "Inconclusive"}'), Verdict.INCONCLUSIVE),
        (HookAnswer(200, '{"verdict": "Maybe"}'), Verdict.ERROR),
        (HookAnswer(200, "<html>"), Verdict.ERROR),
        (HookAnswer(200, "[" * 100_000), Verdict.ERROR),
        (HookAnswer(200, "7"), Verdict.ERROR),
        (HookAnswer(500, "oops"), Verdict.ERROR),
        (HookAnswer(None, error="connection refused"), Verdict.ERROR),
    ],
)
def test_web_hook_answers(answer: HookAnswer, verdict: Verdict) -> None:
    found = observe_hook(Watched(), answer).finding
    assert found.verdict is verdict
    assert 0 < len(found.text) < 600


def test_combination() -> None:
    p, f, i, n, e = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.NO_DATA, Verdict.ERROR
    assert combine([p, p]) is p
    assert combine([p, i]) is i
    assert combine([p, n]) is n
    assert combine([n, e]) is e
    assert combine([e, f, n]) is f
    assert combine([]) is n
