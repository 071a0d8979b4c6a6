"""Who is on the canary's side by header or cookie: each value on one side, and once there, there to stay."""

import random
import re
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.api.rollout import Affinity
from longshore.resources.affinity import Sides, sides_of

HEADER, COOKIE = Affinity(header="X-User"), Affinity(cookie="session")
LONGEST = 4096
"""Characters of a header match's value (Gateway API v1)."""


def side(sides: Sides, value: str) -> str:
    """Give the side of a header's value; fails unless exactly one matches."""
    found = [name for name in ("canary", "stable") if re.search(getattr(sides, name), value, re.ASCII)]
    assert len(found) == 1, (value, found)
    return found[0]


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), st.integers(1, 99))
def test_every_value_belongs_to_exactly_one_side(value: str, weight: int) -> None:
    side(sides_of(HEADER, weight, "team/digits"), value)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=";"), max_size=20),
    st.sampled_from(["", "a=1; ", "xsession=00; b=99;"]),
    st.sampled_from(["", "; c=3", ";d=7;"]),
    st.integers(1, 99),
)
def test_a_cookie_counts_by_its_own_value_among_others(
    value: str, before: str, after: str, weight: int
) -> None:
    sides = sides_of(COOKIE, weight, "team/digits")
    alone = side(sides, f"session={value}")
    assert side(sides, f"{before}session={value}{after}") == alone


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), st.integers(1, 98))
def test_nobody_leaves_the_canary_while_its_weight_rises(value: str, weight: int) -> None:
    if side(sides_of(HEADER, weight, "team/digits"), value) == "canary":
        assert side(sides_of(HEADER, weight + 1, "team/digits"), value) == "canary"


@pytest.mark.parametrize("weight", [1, 5, 10, 25, 50, 75, 99])
@pytest.mark.parametrize("affinity", [HEADER, COOKIE])
def test_the_share_of_usual_values_is_the_weight(affinity: Affinity, weight: int) -> None:
    sides = sides_of(affinity, weight, "team/digits")
    draw = random.Random(7)
    start = "session=" if affinity.cookie else ""
    makers: tuple[Callable[[], str], ...] = (
        lambda: str(draw.randrange(10**9)),
        lambda: str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        lambda: draw.randbytes(16).hex().upper(),
        lambda: f"user-{draw.randrange(10**6)}==",
        lambda: "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=8)),
    )
    for make in makers:
        values = [start + make() for _ in range(4000)]
        share = 100 * sum(side(sides, value) == "canary" for value in values) / len(values)
        assert share == pytest.approx(weight, abs=3.0), values[0]


@pytest.mark.parametrize("weight", range(1, 100))
def test_it_fits_into_a_route(weight: int) -> None:
    for affinity in (HEADER, COOKIE):
        sides = sides_of(affinity, weight, "team/digits")
        assert len(sides.canary) < LONGEST / 4
        assert len(sides.stable) < LONGEST / 4


def test_models_begin_with_different_people() -> None:
    people = [str(number) for number in range(100)]

    def chosen(salt: str) -> set[str]:
        sides = sides_of(HEADER, 10, salt)
        return {person for person in people if side(sides, person) == "canary"}

    assert chosen("team/digits") != chosen("team/letters")
