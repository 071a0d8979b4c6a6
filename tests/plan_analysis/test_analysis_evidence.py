"""The error probabilities that are promised, tick by tick and over whole rollouts."""

import math
from dataclasses import replace

import numpy as np
import pytest
from longshore.plan.analysis.comparison import (
    BETTER_RATIOS,
    HARMLESS_RATIOS,
    WORSE,
    WORSE_RATIOS,
    Compared,
    Count,
    Limits,
    Tick,
    abort_evidence,
    binomial_log_ratio,
    estimate,
    observe,
    promote_evidence,
    suspicious,
    verdict,
)
from longshore.plan.analysis.evidence import CAP, Evidence
from longshore.plan.analysis.fisher import Table, log_ratio
from longshore.plan.analysis.verdict import Verdict
from scipy.stats import binom, nchypergeom_fisher

from bench.rollout.traffic import Scenario, gamma_noise, shared_incident, simulate

TABLES = [Table(4, 36, 1), Table(20, 180, 7), Table(300, 300, 40), Table(900, 30, 5), Table(7, 3, 9)]


def expectation(table: Table, truth: float, theta: float, boundary: float, cap: float) -> float:
    k = np.arange(table.lowest, table.highest + 1)
    chance = nchypergeom_fisher(table.canary + table.stable, table.canary, table.failed, truth).pmf(k)
    ratio = np.array([math.exp(min(cap, log_ratio(table, int(x), theta, boundary))) for x in k])
    return float(chance @ ratio)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("ratio", WORSE_RATIOS)
def test_no_tick_favours_abort_while_the_odds_ratio_is_at_most_the_margin(table: Table, ratio: float) -> None:
    margin = 1.3
    assert expectation(table, margin, margin * ratio, margin, math.inf) == pytest.approx(1.0, abs=1e-9)
    for truth in (0.05, 0.5, 1.0, 1.29):
        assert expectation(table, truth, margin * ratio, margin, math.inf) <= 1 + 1e-9
        assert expectation(table, truth, margin * ratio, margin, CAP) <= 1 + 1e-9


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("ratio", BETTER_RATIOS)
def test_no_tick_favours_promotion_while_the_odds_ratio_is_at_least_harm(table: Table, ratio: float) -> None:
    harm = 3.0
    for truth in (3.0, 4.0, 10.0, 80.0):
        assert expectation(table, truth, ratio, harm, math.inf) <= 1 + 1e-9


@pytest.mark.parametrize("ratio", HARMLESS_RATIOS)
@pytest.mark.parametrize("n", [1, 12, 300])
def test_no_tick_calls_a_rate_harmless_that_is_not(ratio: float, n: int) -> None:
    k = np.arange(n + 1)
    p0 = 0.01
    logs = [binomial_log_ratio(Count(n, int(failures)), p0 * ratio, p0) for failures in k]
    likelihood = np.exp(np.array(logs))
    for truth in (0.01, 0.02, 0.3):
        assert float(binom.pmf(k, n, truth) @ likelihood) <= 1 + 1e-9


def test_priors_are_probabilities() -> None:
    assert sum(WORSE.weights) == pytest.approx(1)
    start = WORSE.start()
    assert WORSE.value(start) == pytest.approx(0)
    quiet = start
    for _ in range(5000):
        quiet = WORSE.advance(quiet, (0.0,) * 4, 7.0)
    assert WORSE.value(quiet) == pytest.approx(0)


LOOSE = Limits(false_abort=0.1, false_promote=0.1)
"""Lines that are crossed often enough to be counted with few rollouts."""


def upper(share: float, rollouts: int) -> float:
    return share + 3 * math.sqrt(share * (1 - share) / rollouts)


@pytest.mark.parametrize("margin", [1.0, 2.0])
def test_stopping_when_one_likes_aborts_few_at_the_boundary(margin: float) -> None:
    scenario = Scenario(canary_rate=0.05 * margin, stable_rate=0.05, weight=0.3, seconds=600)
    # Odds, not rates: at 5 % the odds ratio of 2 is a rate of 0.0952.
    odds = margin * 0.05 / 0.95
    scenario = replace(scenario, canary_rate=odds / (1 + odds))
    outcome = simulate(scenario, replace(LOOSE, margin=margin, harm=5.0), 1500, seed=1)
    share = float(np.isfinite(outcome.aborted).mean())
    assert 0.005 < share <= upper(0.1, 1500)


def test_stopping_when_one_likes_promotes_few_that_are_bad() -> None:
    odds = 3.0 * 0.05 / 0.95
    scenario = Scenario(canary_rate=odds / (1 + odds), stable_rate=0.05, weight=0.3, seconds=600)
    outcome = simulate(scenario, LOOSE, 1500, seed=2, promote=True)
    share = float(np.isfinite(outcome.promoted).mean())
    assert 0.005 < share <= upper(0.1, 1500)


def test_an_incident_that_both_share_aborts_no_more_than_quiet_times() -> None:
    incident = shared_incident(8, 300, 1800, 800, seed=3)
    outcome = simulate(Scenario(0.005, 0.005, modulate=incident), Limits(), 800, seed=4)
    assert float(np.isfinite(outcome.aborted).mean()) <= upper(0.01, 800)


@pytest.mark.parametrize("burst", [3, 10])
def test_errors_in_bursts_do_not_abort(burst: int) -> None:
    outcome = simulate(Scenario(0.005, 0.005, burst=burst), Limits(), 800, seed=5)
    assert float(np.isfinite(outcome.aborted).mean()) <= upper(0.01, 800)


def test_noisy_error_rates_do_not_abort() -> None:
    outcome = simulate(Scenario(0.005, 0.005, modulate=gamma_noise(0.5)), Limits(), 800, seed=6)
    assert float(np.isfinite(outcome.aborted).mean()) <= upper(0.01, 800)


def test_late_fault_is_found_though_hours_were_good() -> None:
    scenario = Scenario(1.0, 0.005, requests_per_second=50, seconds=3720, fault_at=3600)
    outcome = simulate(scenario, Limits(), 50, seed=7)
    assert np.median(outcome.aborted) - 3600 <= 16


def test_difference_of_pods_that_is_small_never_aborts_at_any_traffic() -> None:
    state, limits = Compared(), Limits()
    for _ in range(2000):
        state = observe(limits, state, Tick(Count(10_000, 65), Count(90_000, 450), 2.0))
    assert abort_evidence(state) < 1


def test_one_tick_alone_never_aborts() -> None:
    state = observe(Limits(), Compared(), Tick(Count(10_000, 10_000), Count(90_000, 0), 2.0))
    assert verdict(Limits(), state) is Verdict.INCONCLUSIVE
    for _ in range(3):
        state = observe(Limits(), state, Tick(Count(10_000, 10_000), Count(90_000, 0), 2.0))
    assert verdict(Limits(), state) is Verdict.FAIL
    assert suspicious(Limits(), state)


def test_service_without_any_errors_is_promoted() -> None:
    state = Compared()
    for _ in range(150):
        state = observe(Limits(), state, Tick(Count(4, 0), Count(36, 0), 2.0))
    assert verdict(Limits(), state) is Verdict.PASS


def test_canary_that_has_all_requests_is_held_against_what_stable_was() -> None:
    before = Compared(stable=Count(10_000, 50), canary=Count(1000, 5))
    bad = good = before
    for _ in range(20):
        bad = observe(Limits(), bad, Tick(Count(40, 8), Count(0, 0), 2.0))
        good = observe(Limits(), good, Tick(Count(40, 1), Count(0, 0), 2.0))
    assert verdict(Limits(), bad) is Verdict.FAIL
    assert verdict(Limits(), good) is not Verdict.FAIL


def test_thin_traffic_that_misses_stable_for_a_tick_is_not_alone() -> None:
    state = Compared(stable=Count(10_000, 50))
    for _ in range(30):
        state = observe(Limits(), state, Tick(Count(2, 1), Count(0, 0), 2.0))
        state = observe(Limits(), state, Tick(Count(0, 0), Count(2, 1), 2.0))
    assert abort_evidence(state) == pytest.approx(0, abs=1e-9)


def test_alone_without_a_baseline_tells_nothing() -> None:
    state = observe(Limits(), Compared(), Tick(Count(40, 40), Count(0, 0), 2.0))
    assert abort_evidence(state) == pytest.approx(0, abs=1e-9)


def test_estimate_points_where_the_rates_lead() -> None:
    bad = good = Compared()
    for _ in range(20):
        bad = observe(Limits(), bad, Tick(Count(20, 1), Count(180, 1), 2.0))
        good = observe(Limits(), good, Tick(Count(200, 1), Count(200, 1), 2.0))
    towards_fail, towards_pass = estimate(Limits(), bad), estimate(Limits(), good)
    assert towards_fail is not None
    assert towards_fail.verdict is Verdict.FAIL
    assert 0 <= towards_fail.seconds < 300
    assert towards_pass is not None
    assert towards_pass.verdict is Verdict.PASS
    assert estimate(Limits(), Compared()) is None


def test_estimate_is_about_right() -> None:
    limits, state = Limits(), Compared()
    for _ in range(4):
        state = observe(limits, state, Tick(Count(40, 1), Count(360, 4), 2.0))
    expected = estimate(limits, state)
    assert expected is not None
    taken = 0.0
    while verdict(limits, state) is Verdict.INCONCLUSIVE:
        state = observe(limits, state, Tick(Count(40, 1), Count(360, 4), 2.0))
        taken += 2.0
    assert verdict(limits, state) is expected.verdict
    assert 0.3 < taken / expected.seconds < 3


@pytest.mark.parametrize(
    "broken", [{"margin": 3.0, "harm": 2.0}, {"false_abort": 0.0}, {"harmless": 1.5}, {"harm": math.inf}]
)
def test_limits_that_make_no_sense_are_refused(broken: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"margin|probabilities"):
        Limits(**broken)


def test_evidence_is_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        Evidence(logs=(math.nan,))
    assert promote_evidence(Compared()) == pytest.approx(0, abs=1e-9)
