"""Whatever happens, and wherever the operator is killed: safe at every write, and the same end."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from longshore.api.rollout import Strategy
from longshore.plan.analysis.judge import Judgement
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.rollout import (
    Ending,
    FailedRevision,
    Phase,
    Policy,
    PreflightView,
    RevisionView,
    RolloutState,
    Seen,
    Stage,
    TrafficMode,
    TrafficView,
    commands_of,
    dump_state,
    load_state,
    step,
)
from longshore.plan.rollout.actions import SetWeight
from longshore.plan.rollout.commands import Order

from bench.rollout.world import BAD, CRASHING, GOOD, NEVER_READY, WRONG, World

STAGES = (Stage(10, hold=6.0), Stage(40, hold=None), Stage(80, hold=6.0))
natures = st.sampled_from([GOOD, BAD, NEVER_READY, CRASHING, WRONG])
policies = st.builds(
    Policy,
    strategy=st.just(Strategy.CANARY),
    stages=st.sampled_from([(), STAGES[:1], STAGES]),
    preflight=st.booleans(),
    progress_deadline=st.just(60.0),
    bake=st.sampled_from([0.0, 30.0]),
)


def killed(world: World, policy: Policy, data: st.DataObject) -> None:
    """One decision, killed after some of its writes, with or without its status written."""
    decision = world.decide(policy)
    for action in decision.actions[: data.draw(st.integers(0, len(decision.actions)), label="writes")]:
        world.apply(action)
    if data.draw(st.booleans(), label="status written"):
        world.save(decision)
    world.pass_time(data.draw(st.sampled_from([0.5, 2.0, 7.0]), label="seconds"))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), natures, policies, st.sampled_from(list(TrafficMode)))
def test_killed_at_any_write_it_ends_in_the_same_place(
    data: st.DataObject, nature: str, policy: Policy, mode: TrafficMode
) -> None:
    # Without steps nobody judges it before the bake, and how long a bake lasts depends on the kills.
    assume(nature != BAD or policy.stages)
    undisturbed = World.serving(nature={"b": nature}, mode=mode)
    undisturbed.run(policy, ticks=1500)
    world = World.serving(nature={"b": nature}, mode=mode)
    policy = replace(policy, progress_deadline=600.0)
    for _ in range(data.draw(st.integers(0, 60), label="kills")):
        killed(world, policy, data)
    world.run(policy, ticks=1500)
    assert world.end() == undisturbed.end()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), policies, st.sampled_from(list(TrafficMode)))
def test_weights_are_safe_whatever_people_and_the_cluster_do(
    data: st.DataObject, policy: Policy, mode: TrafficMode
) -> None:
    world = World.serving(nature={"b": data.draw(natures), "c": data.draw(natures)}, mode=mode)
    for _ in range(data.draw(st.integers(5, 80), label="ticks")):
        happening = data.draw(st.sampled_from(["", "", "", "spec", "order", "gone", "load", "clock", "lag"]))
        if happening == "spec":
            world.desired = data.draw(st.sampled_from(["a", "b", "c", None]))
        elif happening == "order":
            chosen = data.draw(st.sampled_from(list(Order)))
            value = data.draw(st.sampled_from(["a", "b", "c", "a,force", "b,force"]))
            world.annotations[f"longshore.dev/{chosen}"] = value
        elif happening == "gone":
            tried = world.canary
            if tried is not None and tried != world.stable:
                world.wanted.pop(tried, None)
                world.ready.pop(tried, None)
        elif happening == "load":
            world.load = data.draw(st.integers(0, 12))
        elif happening == "clock":
            world.now += data.draw(st.sampled_from([-86_400.0, 86_400.0]))
        elif happening == "lag":
            world.lag = data.draw(st.integers(0, 5))
        decision = world.decide(policy)
        assert decision.targets.weight + decision.targets.stable_weight == 100
        for action in decision.actions:
            if isinstance(action, SetWeight) and action.weight:
                assert world.ready[decision.state.canary or ""] > 0
            world.apply(action)
        if decision.state.phase is Phase.ABORTED:
            assert world.weight == 0
        if data.draw(st.booleans(), label="status written"):
            world.save(decision)
        world.pass_time(2.0)
    # Left alone, it comes to rest, with one revision that has all requests.
    world.annotations.clear()
    world.load = max(world.load, 1)
    world.desired = world.desired or "a"
    if world.state is not None and world.state.paused:
        world.annotations["longshore.dev/resume"] = "1"
    world.run(policy, ticks=3000)
    phase, stable, canary, wanted, weight, selected, _ = world.end()
    assert phase in (Phase.IDLE, Phase.ABORTED)
    assert canary is None
    assert weight == 0
    assert selected == stable
    assert set(wanted) == {stable}  # type: ignore[call-overload]


names = st.sampled_from(["a", "b", "c"])
maybe = st.none() | names
times = st.floats(-1e6, 1e9)
anywhere = st.builds(
    RolloutState,
    phase=st.sampled_from(list(Phase)),
    stable=maybe,
    canary=maybe,
    previous=maybe,
    step=st.integers(0, 40),
    held=times,
    waited=times,
    clock=st.none() | times,
    paused=st.booleans(),
    full=st.booleans(),
    forced=st.booleans(),
    pinned=maybe,
    pinned_against=maybe,
    ending=st.none() | st.sampled_from(list(Ending)),
    failed=st.lists(st.builds(FailedRevision, names, st.text(max_size=5)), max_size=3).map(tuple),
)
views = st.builds(
    RevisionView, names, st.integers(0, 20), st.integers(0, 20), st.integers(0, 9), st.text(max_size=9)
)
observations = st.builds(
    Seen,
    now=times,
    desired=maybe,
    load_replicas=st.integers(0, 1000),
    revisions=st.lists(views, max_size=3).map(lambda found: {view.revision: view for view in found}),
    traffic=st.builds(
        TrafficView,
        st.sampled_from(list(TrafficMode)),
        st.integers(0, 100),
        st.booleans(),
        st.none() | st.just("gateway missing"),
        maybe,
        maybe,
        maybe,
        maybe,
    ),
    known=st.frozensets(names),
    commands=st.dictionaries(st.sampled_from(list(Order)).map(lambda o: f"longshore.dev/{o}"), names).map(
        commands_of
    ),
    preflight=st.none()
    | st.builds(PreflightView, names, st.sampled_from(list(Verdict)), st.text(max_size=5)),
    judgement=st.none()
    | st.builds(Judgement, st.sampled_from(list(Verdict)), st.text(max_size=5), st.just(()), st.booleans()),
    judged=maybe,
)


@settings(max_examples=600, deadline=None)
@given(st.none() | anywhere, observations, policies, st.sampled_from(list(Strategy)))
def test_any_state_and_any_cluster_give_a_decision_and_the_same_one_twice(
    state: RolloutState | None, seen: Seen, policy: Policy, strategy: Strategy
) -> None:
    policy = replace(policy, strategy=strategy)
    decision = step(policy, state, seen)
    assert decision == step(policy, state, seen)
    assert 0 <= decision.targets.weight <= 100
    if seen.pods(decision.state.canary).ready == 0:
        assert decision.targets.weight == 0
    if decision.state.phase is Phase.ABORTED:
        assert decision.targets.weight == 0
    assert all(count >= 0 for count in decision.targets.replicas.values())
    assert load_state(dump_state(decision.state)) is not None


@given(anywhere)
def test_state_survives_status(state: RolloutState) -> None:
    loaded = load_state(dump_state(state))
    assert loaded is not None
    rounded = replace(
        state,
        held=round(state.held, 3),
        waited=round(state.waited, 3),
        clock=None if state.clock is None else round(state.clock, 3),
    )
    assert loaded == rounded


@pytest.mark.parametrize(
    "raw", [None, 7, [], {"phase": "Nonsense"}, {"held": "NaN"}, {"failed": 3}, {"clock": float("inf")}]
)
def test_unreadable_state_is_no_state(raw: object) -> None:
    assert load_state(raw) is None


def test_applying_twice_writes_nothing_the_second_time() -> None:
    policy = Policy(stages=STAGES, preflight=False)
    world = World.serving()
    for _ in range(60):
        decision = world.decide(policy)
        for action in decision.actions:
            world.apply(action)
        again = step(policy, decision.state, world.seen())
        world.unconfirmed, lag = 0, world.unconfirmed
        assert [a for a in again.actions if a in decision.actions] == []
        world.unconfirmed = lag
        world.save(decision)
        world.pass_time(2.0)


def test_operator_that_was_down_counts_no_time_that_it_did_not_see() -> None:
    policy = Policy(stages=(Stage(10, hold=300.0), Stage(50, hold=300.0)), preflight=False)
    world = World.serving()
    world.run(policy, ticks=20)
    assert world.weight == 10
    world.now += 86_400
    world.run(policy, ticks=20)
    assert world.weight == 10
    world.now -= 2 * 86_400
    world.run(policy, ticks=60)
    assert world.weight == 10
    world.run(policy, ticks=90)
    assert world.weight == 50


def test_canary_deleted_by_hand_loses_its_weight_and_is_made_anew() -> None:
    policy = Policy(stages=(Stage(50, hold=1000.0),), preflight=False)
    world = World.serving()
    world.run(policy, ticks=20)
    assert world.weight == 50
    del world.wanted["b"], world.ready["b"]
    decision = world.decide(policy)
    assert decision.targets.weight == 0
    world.run(policy, ticks=20)
    assert world.weight == 50
    assert world.wanted["b"] == 2


def test_lost_status_starts_from_what_serves() -> None:
    policy = Policy(stages=STAGES, preflight=False)
    world = World.serving()
    world.run(policy, ticks=12)
    world.status = {"phase": 5}
    world.run(policy)
    assert world.end()[:2] == (Phase.IDLE, "b")


def test_route_that_is_not_accepted_holds_and_says_so() -> None:
    policy = Policy(stages=STAGES, preflight=False)
    world = World.serving()
    world.problem = "Gateway web is not found: create it or name another in route.parentRefs"
    world.run(policy, ticks=2000)
    decision = world.decide(policy)
    assert decision.waiting is not None
    assert decision.waiting.stuck
    assert "Gateway web is not found" in decision.waiting.message
    assert world.stable == "a"
    assert world.end()[0] is Phase.STEPPING


def test_time_before_pods_are_asked_for_is_not_the_revisions_fault() -> None:
    policy = Policy(stages=STAGES, preflight=False, progress_deadline=60.0)
    world = World.serving()
    for _ in range(200):
        world.save(world.decide(policy))
        world.pass_time(2.0)
    world.run(policy)
    assert world.end()[:2] == (Phase.IDLE, "b")


def test_pods_that_were_kept_for_an_unconfirmed_route_go_in_the_end() -> None:
    policy = Policy(stages=STAGES, preflight=False)
    world = World.serving(desired="a")
    world.wanted["b"] = world.ready["b"] = 1
    world.canary, world.unconfirmed = "b", 5
    world.run(policy)
    assert world.wanted["b"] == 0
