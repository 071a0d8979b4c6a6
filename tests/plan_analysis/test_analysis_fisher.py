import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore.plan.analysis.fisher import Table, log_normalizer, log_probability, log_ratio
from scipy.special import gammaln, logsumexp
from scipy.stats import nchypergeom_fisher


@st.composite
def tables(draw: st.DrawFn, most: int) -> Table:
    n1, n0 = draw(st.integers(0, most)), draw(st.integers(0, most))
    return Table(n1, n0, draw(st.integers(0, n1 + n0)))


odds = st.floats(math.log(1e-2), math.log(1e3)).map(math.exp)


def test_probabilities_are_scipys() -> None:
    # Always the same tables: scipy ends the whole process on some that nobody can tell beforehand.
    source = np.random.default_rng(0)
    compared = 0
    for _ in range(300):
        n1, n0 = (int(n) for n in source.integers(0, 401, 2))
        table = Table(n1, n0, int(source.integers(0, n1 + n0 + 1)))
        theta = math.exp(source.uniform(math.log(1e-2), math.log(1e3)))
        k = int(source.integers(table.lowest, table.highest + 1))
        law = nchypergeom_fisher(table.canary + table.stable, table.canary, table.failed, theta)
        expected = law.pmf(k)
        if expected > 1e-250:
            assert log_probability(table, k, theta) == pytest.approx(math.log(expected), abs=1e-7)
            compared += 1
    assert compared > 150


def log_z_by_every_term(table: Table, theta: float) -> float:
    k = np.arange(table.lowest, table.highest + 1, dtype=float)

    def log_choose(n: float, of: np.ndarray) -> np.ndarray:
        return gammaln(n + 1) - gammaln(of + 1) - gammaln(n - of + 1)

    terms = log_choose(table.canary, k) + log_choose(table.stable, table.failed - k) + k * math.log(theta)
    return float(logsumexp(terms))


@settings(max_examples=80, deadline=None)
@given(tables(10**6), odds)
def test_a_million_requests_a_side_are_summed_as_exactly(table: Table, theta: float) -> None:
    assert log_normalizer(table, theta) == pytest.approx(
        log_z_by_every_term(table, theta), abs=1e-7, rel=1e-11
    )


@pytest.mark.parametrize(
    "table",
    [
        Table(10**6, 10**6, 10**6),
        Table(10**6, 10**6, 5),
        Table(1, 10**6, 3000),
        Table(10**6, 10, 10**6),
        Table(900_000, 100, 450_000),
        Table(10**8, 9 * 10**8, 10**6),
    ],
)
@pytest.mark.parametrize("theta", [0.05, 1.0, 4.0, 300.0])
def test_extremes_are_finite(table: Table, theta: float) -> None:
    assert math.isfinite(log_normalizer(table, theta))


def test_totals_that_allow_one_split_tell_nothing() -> None:
    for table in (Table(0, 50, 3), Table(50, 0, 3), Table(10, 20, 0), Table(10, 20, 30)):
        assert table.tells_nothing
        assert log_ratio(table, table.lowest, 4.0, 1.0) == 0.0


def test_ratio_rises_with_the_canarys_failures() -> None:
    table = Table(100, 900, 12)
    ratios = [log_ratio(table, k, 4.0, 1.0) for k in range(table.lowest, table.highest + 1)]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0 < ratios[-1]


@pytest.mark.parametrize("table", [(-1, 5, 2), (3, 5, 9), (10**9, 10**9, 1)])
def test_impossible_totals_are_refused(table: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"not possible|more than"):
        Table(*table)


@pytest.mark.parametrize("theta", [0.0, -1.0, math.inf, math.nan])
def test_impossible_odds_ratios_are_refused(theta: float) -> None:
    with pytest.raises(ValueError, match="odds ratio"):
        log_normalizer(Table(5, 5, 2), theta)
