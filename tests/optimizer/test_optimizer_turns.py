"""Whose turn it is: the order that a budget which ends early needs, and what time each gets."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from longshore.api.optimize import Goal, TechniqueName
from longshore.artifact.manifest import Verdict
from longshore_optimizer.decide import Rules, Trial
from longshore_optimizer.statistics import Drop
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts
from longshore_optimizer.techniques.registry import propose
from longshore_optimizer.turns import planned, turns

RULES = Rules(goal=Goal.LATENCY, max_drop=0.01, metric="Accuracy", confidence=0.95)


def test_what_trains_shares_the_time_with_what_has_had_no_turn() -> None:
    kinds = (TechniqueName.DISTILLATION, TechniqueName.STRUCTURED_PRUNING, TechniqueName.COMPACT_CONVOLUTION)
    proposals = [Proposal(f"{kind.value}-{n}", kind, trains=True) for n in (1, 2) for kind in kinds]
    proposals.append(Proposal("later", TechniqueName.QUANTIZATION_AWARE_TRAINING, after="x", trains=True))
    parts = [
        turns(proposals, [Trial(p) for p in proposals[:number]], proposal)
        for number, proposal in enumerate(proposals[:4])
    ]
    assert parts == [4, 3, 2, 2]
    alone = proposals[:1]
    assert turns(alone, [], alone[0]) == 2
    further = Proposal("further", kinds[0], after=alone[0].name, trains=True)
    assert turns([*alone, further], [Trial(alone[0])], further) == 1, "all that is left is its"
    assert turns([*proposals, further], [Trial(alone[0])], further) == 3, "but what has had no turn"


def order(bounds: dict[str, float], goal: Goal = Goal.LATENCY, *, training: bool = False) -> list[str]:
    """What is tried, in order, where every candidate has the bound that `bounds` gives it, else none lost."""
    facts = ModelFacts(17, {"Conv": 3, "MatMul": 3}, 1 << 20, (), ())
    target = TargetFacts(calibration=True, training=training, goal=goal)
    proposals, _ = propose([TechniqueName.AUTO], facts, target)
    tried: list[Trial] = []
    for proposal in planned(proposals, tried, replace(RULES, goal=goal)):
        tried.append(Trial(proposal, drop=Drop(0.0, bounds.get(proposal.name, 0.0))))  # noqa: PERF401 - read by planned
    return [t.proposal.name for t in tried]


def test_what_has_nothing_to_do_in_a_model_leaves_its_turn_to_the_next_of_its_technique() -> None:
    kinds = (TechniqueName.DISTILLATION, TechniqueName.LOW_RANK)
    proposals = [Proposal(f"{kind}-{i}", kind) for i in range(3) for kind in kinds]
    tried: list[Trial] = []
    for proposal in planned(tuple(proposals), tried, RULES):
        skipped = proposal.name == f"{kinds[0]}-0"
        tried.append(Trial(proposal, verdict=Verdict.SKIPPED if skipped else None))
    numbers = [(t.proposal.technique, t.proposal.name[-1]) for t in tried]
    first, second = kinds
    assert numbers == [(first, "0"), (first, "1"), (second, "0"), (second, "1"), (first, "2"), (second, "2")]


def test_what_searched_and_found_nothing_has_had_its_turn() -> None:
    first, second = TechniqueName.ARCHITECTURE_SEARCH, TechniqueName.DISTILLATION
    proposals = [Proposal(f"{kind}-{i}", kind, trains=True) for kind in (first, second) for i in range(2)]
    proposals.append(Proposal("further", second, after=f"{second}-0", trains=True))
    tried: list[Trial] = []
    for proposal in planned(tuple(proposals), tried, RULES):
        found = proposal.technique is second
        verdict = None if found else Verdict.REFUSED
        tried.append(Trial(proposal, drop=Drop(0.02, 0.02) if found else None, verdict=verdict))
    names = [t.proposal.name for t in tried]
    assert names == [f"{first}-0", f"{second}-0", "further", f"{first}-1", f"{second}-1"]


def test_what_mends_static_quantization_comes_before_the_second_choices() -> None:
    names = order({"static-int8": 0.3})
    assert (
        names.index("low-rank-99.99")
        < names.index("static-int8-mixed-without-50")
        < names.index("low-rank-99.5")
    )
    assert names.index("static-int8-mixed-without-50") < names.index("static-int8-percentile")
    # One that mended it is enough: leaving out more layers is slower.
    assert "static-int8-mixed-without-75" not in names
    assert names.index("shared-256") > names.index("static-int8-signed")
    worse = order({"static-int8": 0.3, "static-int8-mixed-without-50": 0.2})
    assert worse.index("static-int8-mixed-without-75") == worse.index("static-int8-mixed-without-50") + 1
    assert "static-int8-mixed-without-90" not in worse


def test_nothing_is_mended_that_passes_the_gate_and_bytes_come_first_where_they_are_the_goal() -> None:
    names = order({}, Goal.SIZE)
    assert not any("without" in name for name in names)
    assert names.index("shared-256") < names.index("static-int8-signed")
    assert len(names) == len(set(names))


def test_students_that_failed_are_taught_on_the_nearest_to_the_gate_first() -> None:
    structured, distilled = "structured-trained-55-polynomial", "distilled-shallow-75"
    passed = order({}, training=True)
    assert not any("further" in name for name in passed)
    names = order({f"{structured}-int8": 0.3, f"{distilled}-int8": 0.2, "static-int8": 0.3}, training=True)
    turns = [f"{distilled}-int8-further", f"{structured}-int8-further"]
    assert [n for n in names if "further" in n] == turns
    places = [names.index(n) for n in ("static-int8-mixed-without-50", *turns, structured)]
    assert places == sorted(places), "what costs no training comes before, another student after"
    worse = order({f"{structured}-int8": 0.3, f"{structured}-int8-further": 0.1}, training=True)
    assert worse.index(f"{structured}-further") == worse.index(f"{structured}-int8-further") + 1


STATIC, PRUNED, LOW = TechniqueName.STATIC_INT8, TechniqueName.STRUCTURED_PRUNING, TechniqueName.LOW_RANK
NAMES = {STATIC: "static", PRUNED: "pruned", LOW: "low"}


def went(
    rough: Mapping[str, float], bounds: Mapping[str, float] | None = None, rules: Rules = RULES
) -> list[str]:
    """Give the order of three candidates of each of three techniques; 10 ms where `rough` does not tell."""
    proposals = tuple(Proposal(f"{NAMES[kind]}-{n}", kind) for n in (1, 2, 3) for kind in NAMES)
    tried: list[Trial] = []
    for proposal in planned(proposals, tried, rules):
        known = rough.get(proposal.name, 10.0)
        drop = Drop(0.0, (bounds or {}).get(proposal.name, 0.0))
        tried.append(Trial(proposal, size_bytes=int(100 * known), drop=drop, rough_ms=known))
    return [t.proposal.name for t in tried]


FIRST = ["static-1", "pruned-1", "low-1"]


@pytest.mark.parametrize(
    ("rough", "bounds", "then"),
    [
        # What is best goes on, as long as each is better than the one before.
        ({"pruned-1": 5, "pruned-2": 4, "pruned-3": 3}, {}, ["pruned-2", "pruned-3", "static-2", "low-2"]),
        ({"pruned-1": 5, "pruned-2": 4.9}, {}, ["pruned-2", "static-2", "low-2", "static-3", "pruned-3"]),
        ({"pruned-1": 5, "pruned-2": 6}, {}, ["pruned-2", "static-2", "low-2", "static-3", "pruned-3"]),
        # What fails the gate leads nowhere, however fast it is.
        ({"pruned-1": 5, "pruned-2": 2}, {"pruned-2": 0.1}, ["pruned-2", "static-2", "low-2", "static-3"]),
        ({"pruned-1": 2, "low-1": 5}, {"pruned-1": 0.1}, ["low-2", "static-2", "pruned-2", "static-3"]),
    ],
)
def test_the_technique_of_the_best_so_far_goes_on_while_that_pays(
    rough: dict[str, float], bounds: dict[str, float], then: list[str]
) -> None:
    names = went(rough, bounds)
    assert names[:3] == FIRST
    assert names[3 : 3 + len(then)] == then
    assert sorted(names) == sorted(f"{kind}-{n}" for kind in NAMES.values() for n in (1, 2, 3))


def test_the_best_so_far_is_the_smallest_where_that_is_the_goal_and_none_that_is_over_its_limit() -> None:
    assert went({"low-1": 5, "static-1": 6}, rules=replace(RULES, goal=Goal.SIZE))[3] == "low-2"
    limited = replace(RULES, size_limit=700)
    # The fastest of them is too large.
    proposals = tuple(Proposal(f"{NAMES[kind]}-{n}", kind) for n in (1, 2) for kind in NAMES)
    sizes, rough = {"pruned-1": 900, "low-1": 600}, {"pruned-1": 2.0, "low-1": 5.0}
    tried: list[Trial] = []
    for proposal in planned(proposals, tried, limited):
        size = sizes.get(proposal.name, 800)
        tried.append(
            Trial(proposal, size_bytes=size, drop=Drop(0.0, 0.0), rough_ms=rough.get(proposal.name, 10.0))
        )
    assert tried[3].proposal.name == "low-2"


def test_where_nothing_is_known_of_speed_all_take_turns() -> None:
    proposals = tuple(Proposal(f"{NAMES[kind]}-{n}", kind) for n in (1, 2, 3) for kind in NAMES)
    tried: list[Trial] = []
    for proposal in planned(proposals, tried, RULES):
        tried.append(Trial(proposal, drop=Drop(0.0, 0.0)))  # noqa: PERF401 - read by planned
    assert [t.proposal for t in tried] == list(proposals)
