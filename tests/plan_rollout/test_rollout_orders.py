import pytest
from longshore.api.rollout import Pause, Rollout, Step
from longshore.plan.rollout import Phase, Policy, commands_of, policy_of
from longshore.plan.rollout.actions import SetWeight

from bench.rollout.world import BAD, WRONG, World

SLOW = policy_of(Rollout(steps=(Step(weight=10, hold="1h"), Step(weight=50, hold="1h"))))


def order(world: World, policy: Policy, **annotations: str) -> str:
    """Give orders, and the answer to them."""
    world.annotations |= {
        f"longshore.dev/{name.replace('_', '-')}": value for name, value in annotations.items()
    }
    decision = world.decide(policy)
    for action in decision.actions:
        world.apply(action)
    world.save(decision)
    assert world.annotations == {}
    world.pass_time(2)
    return decision.state.answer


@pytest.fixture
def rolling() -> World:
    world = World.serving()
    world.run(SLOW, until=Phase.STEPPING)
    world.run(SLOW, ticks=10)
    assert world.weight == 10
    return world


def test_promote_ends_one_step(rolling: World) -> None:
    assert order(rolling, SLOW, promote="1") == "promote: step 1 is over"
    rolling.run(SLOW, ticks=10)
    assert rolling.weight == 50
    assert rolling.stable == "a"


def test_promote_full_ends_all_but_waits_for_pods(rolling: World) -> None:
    order(rolling, SLOW, promote_full="1")
    assert rolling.stable == "a"
    rolling.run(SLOW)
    assert rolling.end()[:2] == (Phase.IDLE, "b")
    assert [a.weight for a in rolling.written if isinstance(a, SetWeight)] == [10, 0]


def test_promote_full_is_not_undone_by_the_analysis_it_skips(rolling: World) -> None:
    rolling.nature["b"] = BAD
    order(rolling, SLOW, promote_full="1")
    rolling.run(SLOW)
    assert rolling.end()[:2] == (Phase.IDLE, "b")


def test_paused_rollout_stays_until_resumed() -> None:
    policy = policy_of(Rollout(steps=(Step(weight=10, hold="5s"), Step(weight=50, hold="5s"))))
    world = World.serving()
    world.run(policy, until=Phase.STEPPING)
    order(world, policy, pause="1")
    world.run(policy, ticks=200)
    assert world.weight == 10
    order(world, policy, resume="1")
    world.run(policy)
    assert world.end()[:2] == (Phase.IDLE, "b")


def test_paused_rollout_is_still_aborted_when_it_is_bad(rolling: World) -> None:
    rolling.nature["b"] = BAD
    order(rolling, SLOW, pause="1")
    rolling.run(SLOW)
    assert rolling.end()[0] is Phase.ABORTED


def test_abort_takes_weight_back_and_is_not_retried(rolling: World) -> None:
    assert order(rolling, SLOW, abort="1") == "abort: going back to a"
    rolling.run(SLOW)
    assert rolling.end() == (Phase.ABORTED, "a", None, {"a": 4}, 0, "a", ("b",))


def test_of_two_orders_the_cautious_one_is_done_and_the_other_answered(rolling: World) -> None:
    answer = order(rolling, SLOW, promote_full="1", abort="1")
    assert answer.startswith("abort: going back to a; promote-full refused: abort was asked")
    rolling.run(SLOW)
    assert rolling.end()[:2] == (Phase.ABORTED, "a")


def test_order_is_done_once_even_if_its_annotation_cannot_be_removed(rolling: World) -> None:
    rolling.annotations["longshore.dev/promote"] = "1"
    for _ in range(20):
        decision = rolling.decide(SLOW)
        for action in decision.actions:
            rolling.apply(action)
        rolling.save(decision)
        rolling.annotations["longshore.dev/promote"] = "1"
        rolling.pass_time(2)
    assert rolling.weight == 50
    assert rolling.stable == "a"
    order(rolling, SLOW)
    order(rolling, SLOW)
    order(rolling, SLOW, promote="1")
    rolling.run(SLOW, until=Phase.PROMOTING)
    assert rolling.state is not None
    assert rolling.state.phase is Phase.PROMOTING


def test_rollback_goes_through_the_same_gates() -> None:
    world = World.serving("b", desired="b")
    world.wanted["a"] = 0
    assert order(world, SLOW, rollback="a") == "rollback: going to a"
    world.run(SLOW, ticks=40)
    assert world.weight == 10
    assert world.stable == "b"


def test_rollback_that_fails_its_preflight_leaves_what_serves() -> None:
    world = World.serving("b", desired="b", nature={"a": WRONG})
    world.wanted["a"] = 0
    order(world, SLOW, rollback="a")
    world.run(SLOW)
    assert world.end()[1:] == ("b", None, {"b": 4}, 0, "b", ("a",))


def test_forced_rollback_skips_the_gates_but_not_the_capacity() -> None:
    world = World.serving("b", desired="b", nature={"a": WRONG})
    world.wanted["a"] = 0
    order(world, SLOW, rollback="a,force")
    world.run(SLOW)
    assert world.end()[:2] == (Phase.IDLE, "a")
    assert not [a for a in world.written if isinstance(a, SetWeight)]


def test_forced_rollback_during_a_rollout() -> None:
    world = World.serving("b", desired="c")
    world.wanted["a"] = 0
    world.run(SLOW, until=Phase.STEPPING)
    order(world, SLOW, rollback="a,force")
    world.run(SLOW)
    assert world.end()[:4] == (Phase.IDLE, "a", None, {"a": 4})


def test_rolled_back_revision_stays_until_the_spec_changes() -> None:
    world = World.serving("b", desired="b")
    world.wanted["a"] = 0
    order(world, SLOW, rollback="a,force")
    world.run(SLOW)
    world.run(SLOW, ticks=100)
    assert world.stable == "a"
    world.desired = "c"
    world.run(SLOW, ticks=40)
    assert world.state is not None
    assert world.state.canary == "c"
    assert not world.state.forced


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        ({"rollback": "zzz"}, "revision 'zzz' is not kept; there are: a"),
        ({"rollback": "a"}, "a gets all requests already"),
        ({"promote": "x"}, "at no step"),
        ({"promote_full": "x"}, "no rollout is under way"),
        ({"pause": "x"}, "no rollout is under way"),
        ({"resume": "x"}, "not paused"),
        ({"retry": "x"}, "has not failed"),
        ({"abort": "x"}, "no rollout is under way"),
    ],
)
def test_order_that_cannot_be_followed_is_answered(orders: dict[str, str], said: str) -> None:
    world = World.serving(desired="a")
    answer = order(world, SLOW, **orders)
    assert "refused" in answer
    assert said in answer


def test_false_and_empty_values_ask_for_nothing() -> None:
    assert commands_of({"longshore.dev/abort": "false", "longshore.dev/pause": "", "other/abort": "1"}) == ()


def test_rollback_value_is_read() -> None:
    (command,) = commands_of({"longshore.dev/rollback": " 7f3a , force "})
    assert (command.revision, command.force) == ("7f3a", True)


def test_gate_can_be_promoted_without_evidence() -> None:
    policy = policy_of(Rollout(steps=(Step(weight=10, pause=Pause()),)))
    world = World.serving()
    world.run(policy, until=Phase.STEPPING)
    order(world, policy, promote="1")
    world.run(policy)
    assert world.end()[:2] == (Phase.IDLE, "b")
