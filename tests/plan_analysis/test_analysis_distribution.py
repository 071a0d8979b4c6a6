import numpy as np
import pytest
from longshore.plan.analysis.distribution import (
    FIRST_LOOK,
    Bounds,
    Distributions,
    Shift,
    homogeneity_p_value,
    ks_distance,
    observe_shift,
    population_stability_index,
)
from longshore.plan.analysis.special import chi_squared_tail, kolmogorov_tail
from longshore.plan.analysis.verdict import Verdict
from scipy.stats import chi2, chi2_contingency, kstwobign


@pytest.mark.parametrize("degrees", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("x", [0.001, 0.5, 3.0, 40.0, 130.0, 1200.0])
def test_chi_squared_tail_is_scipys(degrees: int, x: float) -> None:
    assert chi_squared_tail(x, degrees) == pytest.approx(chi2.sf(x, degrees), rel=1e-8, abs=1e-13)


@pytest.mark.parametrize("x", [0.1, 0.4, 0.828, 1.36, 2.5])
def test_kolmogorov_tail_is_scipys(x: float) -> None:
    assert kolmogorov_tail(x) == pytest.approx(kstwobign.sf(x), rel=1e-9, abs=1e-12)


def test_homogeneity_is_the_chi_squared_test() -> None:
    a, b = (120, 80, 40, 60), (1000, 900, 500, 700)
    expected = chi2_contingency(np.array([a, b]), correction=False).pvalue
    assert homogeneity_p_value(a, b) == pytest.approx(expected, rel=1e-9)


def test_index_of_the_same_shares_is_none_and_of_a_swap_large() -> None:
    assert population_stability_index((500, 500), (5000, 5000))[0] == pytest.approx(0, abs=1e-9)
    assert population_stability_index((900, 100), (1000, 9000))[0] > 1


def grow(
    p: list[float], q: list[float], seed: int, bounds: Bounds, ordered: bool = False, ticks: int = 300
) -> Shift:
    random = np.random.default_rng(seed)
    canary, stable, shift = np.zeros(len(p), int), np.zeros(len(q), int), Shift()
    for _ in range(ticks):
        canary += random.multinomial(20, p)
        stable += random.multinomial(180, q)
        seen = Distributions(tuple(map(int, canary)), tuple(map(int, stable)), ordered)
        shift = observe_shift(bounds, shift, seen)
    return shift


def test_shifted_classes_fail_and_the_same_pass() -> None:
    same = [0.5, 0.3, 0.1, 0.1]
    assert grow(same, same, 1, Bounds()).verdict is Verdict.PASS
    assert grow([0.1, 0.3, 0.1, 0.5], same, 2, Bounds()).verdict is Verdict.FAIL


def test_scores_that_moved_fail_by_ks() -> None:
    # A shift of one bin of forty: PSI is small, the cumulative distributions are apart.
    bins = np.arange(40)
    p = np.exp(-0.5 * ((bins - 20) / 6) ** 2)
    q = np.exp(-0.5 * ((bins - 18) / 6) ** 2)
    shift = grow(list(p / p.sum()), list(q / q.sum()), 3, Bounds(psi=0.25), ordered=True)
    assert shift.verdict is Verdict.FAIL
    assert shift.psi < 0.25


@pytest.mark.parametrize("ordered", [False, True])
def test_hundred_looks_at_the_same_distribution_seldom_fail(ordered: bool) -> None:
    flat = [1 / 30] * 30
    strict = Bounds(psi=1e-6, ks=1e-6, alpha=0.05)
    failed = sum(grow(flat, flat, seed, strict, ordered).verdict is Verdict.FAIL for seed in range(200))
    assert failed / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_few_answers_decide_nothing() -> None:
    assert observe_shift(Bounds(), Shift(), Distributions((), ())).verdict is Verdict.NO_DATA
    shift = observe_shift(Bounds(), Shift(), Distributions((150, 0), (0, 9000)))
    assert shift.verdict is Verdict.INCONCLUSIVE


def test_harmless_difference_in_large_traffic_does_not_fail() -> None:
    seen = Distributions((510_000, 490_000), (5_000_000, 5_000_000))
    assert observe_shift(Bounds(), Shift(), seen).verdict is Verdict.PASS


def test_bins_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="same bins"):
        Distributions((1, 2), (1, 2, 3))
    with pytest.raises(ValueError, match="fewer than 0"):
        Distributions((-1,), (1,))


def test_ks_distance_of_nothing_is_none() -> None:
    assert ks_distance((0, 0), (4, 5)) == 0
    assert ks_distance((10, 0), (0, 10)) == 1


def test_values_in_two_thousand_bins_pass_when_alike_and_fail_when_they_move() -> None:
    source = np.random.default_rng(5)

    def counts(center: float, number: int) -> tuple[int, ...]:
        drawn = np.clip(source.normal(center, 60.0, number), 0, 1999).astype(int)
        return tuple(map(int, np.bincount(drawn, minlength=2000)))

    alike = moved = Shift()
    for looks in range(4):
        number = FIRST_LOOK * 2**looks
        alike = observe_shift(Bounds(), alike, Distributions(counts(1000, number), counts(1000, 9000), True))
        moved = observe_shift(Bounds(), moved, Distributions(counts(1040, number), counts(1000, 9000), True))
    assert alike.verdict is Verdict.PASS
    assert moved.verdict is Verdict.FAIL
    assert moved.psi > 0.2
