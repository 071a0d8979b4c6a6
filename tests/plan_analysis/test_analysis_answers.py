import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.plan.analysis.answers import Asked, judge_preflight, same_answer
from longshore.plan.analysis.verdict import Verdict


def answer(*data: float, model: str = "m") -> dict[str, Any]:
    return {
        "model_name": model,
        "id": model,
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, len(data)], "data": list(data)}],
    }


def test_same_within_the_tolerance_of_the_largest_number() -> None:
    assert same_answer(answer(0.9, 1e-6), answer(0.901, 5e-6, model="n"), 0.01)
    assert not same_answer(answer(0.9, 0.1), answer(0.8, 0.2), 0.01)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0], [1.0, 2.0]),
        (["cat"], ["dog"]),
        ([math.nan], [1.0]),
        ([math.inf], [-math.inf]),
        ([math.inf], [1e300]),
        ({"x": 1}, {"y": 1}),
        ([True], [1.5]),
        (None, 0),
        ({"outputs": [{"data": [1.0], "shape": [1]}]}, {"outputs": [{"data": [1.0], "shape": [2]}]}),
    ],
)
def test_different(a: Any, b: Any) -> None:
    assert not same_answer(a, b, 0.01)


def test_nan_is_nan_and_inf_is_inf() -> None:
    assert same_answer([math.nan, math.inf], [math.nan, math.inf], 0.0)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(json_values, json_values)
def test_any_json_is_compared_both_ways_alike(a: Any, b: Any) -> None:
    assert same_answer(a, a, 0.0)
    assert same_answer(a, b, 0.1) == same_answer(b, a, 0.1)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_hostile_depth_is_no_crash() -> None:
    assert not same_answer(deep(5000), deep(5000), 0.1)


GOOD = Asked(answer(0.9), answer(0.9), 0.01)
WRONG = Asked(answer(0.1), answer(0.9), 0.01)


@pytest.mark.parametrize(
    ("asked", "verdict", "said"),
    [
        ([], Verdict.NO_DATA, "no recorded requests"),
        ([GOOD] * 20, Verdict.PASS, "20 of 20 answers agree"),
        ([GOOD] * 19 + [WRONG], Verdict.PASS, "19 of 20"),
        ([GOOD] * 18 + [WRONG] * 2, Verdict.FAIL, "2 of 20 answers differ"),
        ([GOOD, Asked(None, answer(1), error="500: shape mismatch")], Verdict.FAIL, "shape mismatch"),
        ([Asked(None, None, error="connection refused")], Verdict.FAIL, "connection refused"),
        ([GOOD, Asked(None, None, error="400: bad sample")], Verdict.PASS, "1 of 1"),
        ([Asked(answer(1), None)], Verdict.NO_DATA, "none of the stable"),
        ([Asked(answer(0.9), answer(0.9), 0.3)] * 4, Verdict.FAIL, "300 ms, the objective is 100 ms"),
    ],
)
def test_preflight(asked: list[Asked], verdict: Verdict, said: str) -> None:
    found = judge_preflight(asked, 0.05, 0.01, objective=0.1)
    assert found.verdict is verdict
    assert said in found.text
