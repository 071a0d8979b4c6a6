"""The bounds that decide: known values, and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore_optimizer.statistics import (
    bootstrap_drop,
    clopper_pearson_upper,
    mean_drop,
    paired_binary,
    paired_ratio,
    smallest_sample,
    tango_upper,
)


def outcomes(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    original = np.array([True] * (both + lost) + [False] * (won + neither))
    candidate = np.array([True] * both + [False] * lost + [True] * won + [False] * neither)
    return original, candidate


@pytest.mark.parametrize(("lost", "won", "n"), [(9, 1, 44), (3, 5, 100), (20, 18, 400)])
def test_the_score_bound_solves_its_equation(lost: int, won: int, n: int) -> None:
    bound = tango_upper(lost, won, n, 0.975)
    # The nuisance, the rate of won samples, by brute force over the likelihood instead of the closed form.
    rate = np.linspace(max(1e-9, -bound), (1 - bound) / 2 - 1e-9, 400_001)
    likelihood = (
        lost * np.log(rate + bound) + won * np.log(rate) + (n - lost - won) * np.log(1 - 2 * rate - bound)
    )
    best = rate[np.argmax(likelihood)]
    score = (lost - won - n * bound) / math.sqrt(n * (2 * best + bound - bound**2))
    assert score == pytest.approx(-1.959964, abs=1e-3)


def test_without_discordant_pairs_the_score_bound_is_known() -> None:
    z = 1.6448536269514722
    assert tango_upper(0, 0, 200, 0.95) == pytest.approx(z * z / (200 + z * z), abs=1e-9)


def test_identical_answers_still_leave_the_rule_of_three() -> None:
    drop = paired_binary(*outcomes(300, 0, 0, 0), 0.95)
    assert drop.estimate == 0
    assert drop.upper == pytest.approx(1 - 0.05 ** (1 / 300), rel=1e-9)
    assert smallest_sample(0.01, 0.95) == 299
    assert clopper_pearson_upper(0, 299, 0.95) <= 0.01 < clopper_pearson_upper(0, 298, 0.95)


@given(
    st.integers(1, 300),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(0, 50),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_bound_is_above_the_estimate_and_grows_with_confidence(
    both: int, lost: int, won: int, neither: int, confidence: float
) -> None:
    original, candidate = outcomes(both, lost, won, neither)
    drop = paired_binary(original, candidate, confidence)
    n = len(original)
    assert drop.estimate == pytest.approx((lost - won) / n)
    assert drop.estimate <= drop.upper <= 1
    assert drop.upper <= paired_binary(original, candidate, 0.995).upper + 1e-12


@pytest.mark.parametrize("n", [200, 1000])
@pytest.mark.parametrize("won_rate", [0.0, 0.01, 0.05])
def test_a_model_that_truly_drops_too_much_passes_at_most_as_often_as_stated(n: int, won_rate: float) -> None:
    rng = np.random.default_rng(n)
    max_drop, trials, accepted = 0.02, 600, 0
    for lost, won, _ in rng.multinomial(
        n, [won_rate + max_drop, won_rate, 1 - 2 * won_rate - max_drop], trials
    ):
        original, candidate = outcomes(n - lost - won, lost, won, 0)
        accepted += paired_binary(original, candidate, 0.95).upper <= max_drop
    # 5 % is allowed; three standard errors of 600 trials are 2.7 points.
    assert accepted / trials <= 0.05 + 0.027


def test_the_bootstrap_covers_a_mean() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(120):
        loss = rng.exponential(0.1, 80) - 0.05
        drop = bootstrap_drop(lambda i, v=loss: float(v[i].mean()), 80, 0.95, seed, resamples=400)
        covered += drop.upper >= 0.05
    assert covered / 120 >= 0.87


def test_identical_scores_are_no_proof_of_nothing() -> None:
    drop = mean_drop(np.ones(100), np.ones(100), 0.95, 0)
    assert drop.estimate == 0
    assert 0.02 < drop.upper < 0.04


def test_one_sample_proves_nothing() -> None:
    assert bootstrap_drop(lambda i: 0.0, 1, 0.95, 0).upper == math.inf


def test_a_slow_spell_that_hits_both_does_not_widen_the_ratio() -> None:
    rng = np.random.default_rng(0)
    spell = np.where(np.arange(11) > 5, 3.0, 1.0)
    noise = rng.normal(1, 0.01, (2, 11))
    ratio = paired_ratio(2.0 * spell * noise[0], 1.0 * spell * noise[1], 0.95)
    assert ratio.low > 1.9
    assert ratio.high < 2.1


def test_noise_alone_is_not_a_gain() -> None:
    rng = np.random.default_rng(0)
    wins = 0
    for _ in range(400):
        a, b = rng.lognormal(0, 0.1, (2, 11))
        ratio = paired_ratio(a, b, 0.95)
        wins += ratio.low > 1.0
    assert wins / 400 < 0.06
