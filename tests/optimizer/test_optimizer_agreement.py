"""Agreement with the original: what it sees of each shape of output."""

import numpy as np
import pytest
from longshore_optimizer.metrics import agreement

RNG = np.random.default_rng(0)
SCALARS = RNG.uniform(0.2, 0.9, (500, 1)).astype(np.float32)


def mean(wanted: np.ndarray, given: np.ndarray) -> float:
    return float(agreement({"y": wanted}, {"y": given}).mean())


@pytest.mark.parametrize("shape", [(500,), (500, 1), (500, 1, 1)])
def test_one_number_a_sample_is_scored_by_how_far_it_is_off(shape: tuple[int, ...]) -> None:
    wanted = SCALARS.reshape(shape)
    assert mean(wanted, wanted) == 1
    nearly = wanted + np.float32(0.002) * RNG.standard_normal(shape).astype(np.float32)
    assert 0.999 < mean(wanted, nearly) < 1
    assert mean(wanted, np.full_like(wanted, 0.5)) < 0.2
    assert mean(wanted, wanted[::-1]) < 0.2


def test_the_mean_over_scalars_is_r2_against_the_original() -> None:
    given = SCALARS + 0.05 * RNG.standard_normal(SCALARS.shape)
    expected = 1 - np.square(SCALARS - given).mean() / SCALARS.astype(np.float64).var()
    assert mean(SCALARS, given) == pytest.approx(expected, abs=1e-9)


def test_a_scalar_that_never_changes_is_measured_by_its_size() -> None:
    wanted = np.full((10, 1), 4.0)
    assert mean(wanted, wanted * 1.01) == pytest.approx(0.9999)
    assert mean(wanted * 0, wanted) == 0
    assert mean(wanted * 0, wanted * 0) == 1


def test_a_vector_is_scored_by_its_direction_and_a_class_by_being_the_same() -> None:
    wanted = RNG.standard_normal((20, 8))
    assert mean(wanted, 3 * wanted) == pytest.approx(1)
    assert mean(wanted, -wanted) == pytest.approx(-1)
    classes = np.arange(10)
    assert mean(classes, np.where(classes < 5, classes, 0)) == 0.5


def test_the_worst_output_counts() -> None:
    vector = RNG.standard_normal((20, 8))
    scores = agreement({"a": vector, "b": vector}, {"a": vector, "b": -vector})
    np.testing.assert_allclose(scores, -1)
