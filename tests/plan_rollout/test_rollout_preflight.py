"""What the answers to the same requests say of a new revision."""

from collections.abc import Sequence
from typing import Any

import pytest
from longshore.api.rollout import Preflight
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.preflight import Answered, Source, compare, requests_for

REFUSED = Answered(0.01, error="HTTP 400: no such input")


def answer(*values: Any, seconds: float = 0.01, shape: tuple[int, ...] | None = None) -> Answered:
    return Answered(seconds, {"y": values}, {"y": shape or (1, len(values))})


def pairs(same: int, other: int, failed: int = 0) -> list[tuple[Answered, Answered]]:
    old = answer(1.0, 2.0)
    return [(old, old)] * same + [(old, answer(2.0, 1.0))] * other + [(old, REFUSED)] * failed


@pytest.mark.parametrize(
    ("asked", "bound", "verdict", "said"),
    [
        (
            pairs(20, 0),
            None,
            Verdict.PASS,
            "0 of 20 answers to requests from recent traffic differ",
        ),
        (pairs(0, 20), None, Verdict.PASS, "20 of 20 answers"),
        (pairs(19, 0, 1), None, Verdict.FAIL, "1 failed (HTTP 400: no such input); all must be answered"),
        (pairs(19, 1), 0.05, Verdict.PASS, "1 of 20 answers"),
        (pairs(18, 2), 0.05, Verdict.FAIL, "preflight.maxDisagreement is 5%"),
        (pairs(19, 0, 1), 0.05, Verdict.PASS, "1 failed"),
        (pairs(18, 1, 1), 0.05, Verdict.FAIL, "1 of 20 answers"),
        ([(REFUSED, REFUSED)], 0.0, Verdict.NO_DATA, "no sample request fits the model: HTTP 400"),
        ([], None, Verdict.NO_DATA, "no request could be made"),
        ([(REFUSED, REFUSED), *pairs(1, 0)], 0.0, Verdict.PASS, "0 of 1 answers"),
    ],
)
def test_answers_must_come_and_agree_within_the_bound(
    asked: Sequence[tuple[Answered, Answered]], bound: float | None, verdict: Verdict, said: str
) -> None:
    found = compare(Preflight(max_disagreement=bound), None, "r2", asked, Source.TRAFFIC)
    assert found.verdict is verdict
    assert said in found.text
    assert found.revision == "r2"


@pytest.mark.parametrize(
    ("old", "new", "agree"),
    [
        (answer(3.0, 4.0), answer(3.0, 4.04), True),
        (answer(3.0, 4.0), answer(3.0, 4.06), False),
        (answer(0.0, 0.0), answer(0.0, 1e-7), True),
        (answer(1.0), answer(float("nan")), False),
        (answer(1.0), answer(None), False),
        (answer("cat"), answer("cat"), True),
        (answer("cat"), answer("dog"), False),
        (answer(1.0, 2.0), answer(1.0, 2.0, shape=(2, 1)), False),
        (answer(1.0, 2.0), Answered(0.0, {"z": (1.0, 2.0)}, {"z": (1, 2)}), False),
        (answer(1.0, 2.0), answer(1.0), False),
    ],
)
def test_numbers_may_differ_by_a_share_of_their_length_and_the_rest_not_at_all(
    old: Answered, new: Answered, agree: bool
) -> None:
    found = compare(Preflight(max_disagreement=0.0, tolerance=0.01), None, "r2", [(old, new)])
    assert found.verdict is (Verdict.PASS if agree else Verdict.FAIL)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [(0.01, 0.019, Verdict.PASS), (0.01, 0.021, Verdict.FAIL), (0.05, 0.04, Verdict.PASS)],
)
def test_it_must_be_as_fast_as_the_objective_or_as_the_stable_revision(
    old: float, new: float, verdict: Verdict
) -> None:
    asked = [(answer(1.0, seconds=old), answer(1.0, seconds=new))] * 3
    found = compare(Preflight(), 0.02, "r2", asked)
    assert found.verdict is verdict
    assert (verdict is Verdict.FAIL) == ("serving.latencyObjective is 20 ms" in found.text)


def test_what_cannot_be_made_or_is_too_large_is_left_out() -> None:
    def made(datatype: str, *shape: int) -> int:
        return len(list(requests_for({"inputs": [{"name": "x", "datatype": datatype, "shape": shape}]}, 7)))

    assert made("BYTES", -1, 1) == 7
    assert made("BOOL", -1, 3) == 7
    assert made("BF16", -1, 3) == 0
    assert made("FP32", 1, 10**6) == 0
    assert made("FP32", -1, 3, -1, -1) == 6, "3 x 320 x 320 values say no more than fewer do"


def test_requests_are_made_one_at_a_time_and_are_always_the_same() -> None:
    metadata = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]}
    first, again = requests_for(metadata, 1_000_000), requests_for(metadata, 5)
    assert [next(first) for _ in range(5)] == list(again)
