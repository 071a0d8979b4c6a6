import pytest
from longshore.api.rollout import Analysis, AnalysisSignal, Pause, Rollout, SignalType, Step, Strategy
from longshore.plan.analysis.judge import Judgement
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.rollout import Phase, Policy, Stage, TrafficMode, policy_of, step_problems
from longshore.plan.rollout.actions import Mirror, Preview, Scale, SelectStable, SetWeight
from longshore.plan.rollout.capacity import replicas_for

from bench.rollout.world import BAD, CRASHING, NEVER_READY, WRONG, World

CANARY = policy_of(
    Rollout(steps=(Step(weight=5, hold="10s"), Step(weight=25, hold="10s"), Step(weight=50, hold="10s")))
)


def weights(world: World) -> list[int]:
    return [action.weight for action in world.written if isinstance(action, SetWeight)]


def test_good_canary_is_promoted_by_moving_the_selector() -> None:
    world = World.serving()
    world.run(CANARY)
    assert weights(world) == [5, 25, 50, 0]
    assert [a for a in world.written if isinstance(a, SelectStable)] == [SelectStable("b")]
    assert world.end() == (Phase.IDLE, "b", None, {"b": 4}, 0, "b", ())
    assert "RolloutPromoted" in world.events
    assert world.events.count("RolloutExamined") == 1


def test_capacity_goes_ahead_of_weight() -> None:
    world = World.serving(load=10)
    for _ in range(200):
        decision = world.decide(CANARY)
        for action in decision.actions:
            if isinstance(action, SetWeight) and action.weight:
                assert world.ready["b"] >= -(-10 * action.weight // 100)
            world.apply(action)
        world.save(decision)
        world.pass_time(2)
    scales = [a.replicas for a in world.written if isinstance(a, Scale) and a.revision == "b"]
    assert scales == [1, 3, 5, 10]


def test_canary_starts_with_the_pods_that_its_weight_needs_at_the_present_load() -> None:
    policy = Policy(stages=(Stage(weight=25, hold=1000.0),), preflight=False)
    world = World.serving(load=40)
    world.run(policy, ticks=30)
    assert world.wanted == {"a": 40, "b": 10}
    world.load = 80
    world.run(policy, ticks=30)
    assert world.wanted == {"a": 80, "b": 20}


def test_bad_canary_is_aborted_weight_first_then_pods() -> None:
    world = World.serving(nature={"b": BAD})
    world.run(CANARY)
    assert world.end() == (Phase.ABORTED, "a", None, {"a": 4}, 0, "a", ("b",))
    assert world.state is not None
    assert "99.4 % evidence" in world.state.why
    zero = world.written.index(SetWeight(0))
    assert world.written.index(Scale("b", 0)) > zero


def test_pods_stay_until_the_gateway_confirms_that_weight_is_gone() -> None:
    world = World.serving(nature={"b": BAD}, lag=1)
    world.run(CANARY, until=Phase.ABORTING)
    world.lag = world.unconfirmed = 1000
    world.run(CANARY, ticks=20)
    assert world.weight == 0
    assert world.wanted["b"] > 0
    world.unconfirmed = 0
    world.run(CANARY, ticks=20)
    assert world.wanted["b"] == 0


def test_failed_revision_is_not_tried_again_until_a_person_asks() -> None:
    world = World.serving(nature={"b": BAD})
    world.run(CANARY)
    world.written.clear()
    world.run(CANARY, ticks=50)
    assert world.written == []
    world.nature["b"] = "good"
    world.exposure.clear()
    world.annotations["longshore.dev/retry"] = "now"
    world.run(CANARY)
    assert world.end()[:2] == (Phase.IDLE, "b")


@pytest.mark.parametrize(
    ("nature", "said"),
    [
        (NEVER_READY, "progressDeadline"),
        (CRASHING, "OOMKilled"),
        (WRONG, "preflight: 3 of 16 answers differ"),
    ],
)
def test_canary_that_never_gets_weight_is_given_up_and_told_why(nature: str, said: str) -> None:
    world = World.serving(nature={"b": nature})
    world.run(CANARY)
    assert weights(world) == []
    assert world.end()[:2] == (Phase.ABORTED, "a")
    assert world.state is not None
    assert said in world.state.why


def test_the_image_problem_is_named_when_the_deadline_passes() -> None:
    world = World.serving(nature={"b": NEVER_READY})
    world.run(CANARY)
    assert world.state is not None
    assert "0 of 1 pods of b" in world.state.why
    assert "image not found" in world.state.why


def test_a_new_revision_replaces_the_canary_and_there_are_never_two() -> None:
    world = World.serving()
    world.run(CANARY, until=Phase.STEPPING)
    world.desired = "c"
    for _ in range(300):
        decision = world.decide(CANARY)
        for action in decision.actions:
            world.apply(action)
            assert sum(1 for revision in ("b", "c") if world.wanted.get(revision)) < 2
        world.save(decision)
        world.pass_time(2)
        if decision.next_in is None:
            break
    assert world.end() == (Phase.IDLE, "c", None, {"c": 4}, 0, "c", ())


def test_return_to_the_stable_spec_ends_the_rollout_at_once() -> None:
    world = World.serving()
    world.run(CANARY, until=Phase.STEPPING)
    world.desired = "a"
    world.run(CANARY, ticks=6)
    assert world.end() == (Phase.IDLE, "a", None, {"a": 4}, 0, "a", ())


def test_gate_waits_for_a_person() -> None:
    policy = policy_of(Rollout(steps=(Step(weight=10, pause=Pause(reason="ask the owner")),)))
    world = World.serving()
    world.run(policy, ticks=300)
    decision = world.decide(policy)
    assert decision.waiting is not None
    assert decision.waiting.reason == "WaitingForPromotion"
    assert "ask the owner" in decision.waiting.message
    world.annotations["longshore.dev/promote"] = "1"
    world.run(policy)
    assert world.end()[:2] == (Phase.IDLE, "b")


def test_analysis_goes_on_at_a_gate() -> None:
    policy = policy_of(Rollout(steps=(Step(weight=10, pause=Pause()),)))
    world = World.serving(nature={"b": BAD})
    world.run(policy)
    assert world.end()[0] is Phase.ABORTED


def test_fault_during_bake_goes_back_to_the_revision_before() -> None:
    policy = Policy(stages=CANARY.stages, bake=600)
    world = World.serving()
    world.run(policy, until=Phase.BAKING)
    assert world.wanted["a"] == 4
    world.judgement = Judgement(Verdict.FAIL, "canary 40 errors of 100", ())
    world.run(policy)
    assert world.end() == (Phase.ABORTED, "a", None, {"a": 4}, 0, "a", ("b",))
    assert world.state is not None
    assert world.state.why.startswith("after promotion: canary 40 errors")


@pytest.mark.parametrize("verdict", [Verdict.NO_DATA, Verdict.ERROR, Verdict.INCONCLUSIVE])
def test_without_evidence_a_canary_is_neither_promoted_nor_aborted(verdict: Verdict) -> None:
    world = World.serving()
    world.judgement = Judgement(verdict, "query failed: parse error at char 7", ())
    world.run(CANARY, ticks=2000)
    assert world.state is not None
    assert world.state.phase is Phase.STEPPING
    assert world.stable == "a"
    assert world.weight == (50 if verdict is Verdict.INCONCLUSIVE else 5)


def test_no_data_beyond_its_deadline_is_said() -> None:
    world = World.serving()
    world.run(CANARY, until=Phase.STEPPING)
    world.judgement = Judgement(Verdict.NO_DATA, "no request for 10 min", (), overdue=True)
    world.run(CANARY, ticks=30)
    decision = world.decide(CANARY)
    assert decision.waiting is not None
    assert decision.waiting.stuck
    assert "no request for 10 min" in decision.waiting.message
    assert world.events.count("RolloutNoData") <= 2


def test_suspicion_keeps_the_weight_where_it_is() -> None:
    world = World.serving()
    world.judgement = Judgement(Verdict.INCONCLUSIVE, "92 % evidence that it is worse", (), suspicious=True)
    world.run(CANARY, ticks=300)
    assert world.weight == 5


def test_step_without_hold_goes_on_when_the_evidence_suffices() -> None:
    policy = policy_of(Rollout(steps=(Step(weight=10), Step(weight=50))))
    world = World.serving()
    world.judgement = Judgement(Verdict.INCONCLUSIVE, "too early", ())
    world.run(policy, ticks=100)
    assert world.weight == 10
    world.judgement = None
    world.run(policy)
    assert world.end()[:2] == (Phase.IDLE, "b")


def test_no_steps_goes_straight_to_all_requests() -> None:
    world = World.serving()
    world.run(policy_of(Rollout()))
    assert weights(world) == []
    assert world.end()[:2] == (Phase.IDLE, "b")


def test_first_revision_needs_no_gate() -> None:
    world = World(nature={"a": "good"}, desired="a", load=2)
    world.run(CANARY)
    assert world.end() == (Phase.IDLE, "a", None, {"a": 2}, 0, "a", ())


def test_first_revision_that_is_not_ready_is_kept_trying() -> None:
    world = World(nature={"a": NEVER_READY}, desired="a", load=2)
    world.run(CANARY, ticks=1000)
    decision = world.decide(CANARY)
    assert world.wanted == {"a": 2}
    assert decision.waiting is not None
    assert "image not found" in decision.waiting.message


def test_blue_green_shows_a_preview_and_switches_at_once() -> None:
    world = World.serving()
    world.run(policy_of(Rollout(strategy=Strategy.BLUE_GREEN)))
    previews = [a for a in world.written if isinstance(a, Preview)]
    assert previews == [Preview("b"), Preview(None)]
    assert weights(world) == []
    assert world.written.index(Scale("b", 4)) < world.written.index(SelectStable("b"))
    assert world.end()[:2] == (Phase.IDLE, "b")


def test_shadow_is_mirrored_judged_and_promoted() -> None:
    policy = policy_of(Rollout(strategy=Strategy.SHADOW))
    world = World.serving()
    world.run(policy)
    assert [a for a in world.written if isinstance(a, Mirror)] == [Mirror("b"), Mirror(None)]
    assert weights(world) == []
    assert world.end()[:2] == (Phase.IDLE, "b")
    world = World.serving(nature={"b": BAD})
    world.run(policy)
    assert world.end()[:2] == (Phase.ABORTED, "a")
    assert world.mirrored is None


def test_a_canary_is_mirrored_where_its_answers_shall_be_compared() -> None:
    signals = (AnalysisSignal(name="same", type=SignalType.AGREEMENT),)
    steps = (Step(weight=0), Step(weight=25), Step(weight=100))
    rollout = Rollout(steps=steps, analysis=Analysis(signals=signals))
    policy = policy_of(rollout)
    assert [stage.mirror for stage in policy.stages] == [True, True, False]
    assert policy.stages[0].judged, "copies are evidence"
    assert [replicas_for(stage, 8, TrafficMode.GATEWAY) for stage in policy.stages] == [8, 2, 8]
    assert [stage.mirror for stage in policy_of(rollout, compares=False).stages] == [False] * 3
    assert not policy_of(rollout, compares=False).stages[0].judged
    assert policy_of(Rollout(strategy=Strategy.SHADOW), compares=False).stages[0].mirror, (
        "it holds, and says so"
    )
    world = World.serving()
    world.run(policy)
    assert world.end()[:2] == (Phase.IDLE, "b")
    assert world.mirrored is None


def test_recreate_never_has_two_copies() -> None:
    policy = policy_of(Rollout(strategy=Strategy.RECREATE))
    for nature, end in (("good", (Phase.IDLE, "b")), (NEVER_READY, (Phase.ABORTED, "a"))):
        world = World.serving(nature={"b": nature, "recreate": "yes"})
        for _ in range(1000):
            decision = world.decide(policy)
            for action in decision.actions:
                world.apply(action)
            world.save(decision)
            assert min(world.ready.get("a", 0), world.ready.get("b", 0)) == 0
            world.pass_time(2)
            if decision.next_in is None:
                break
        assert world.end()[:2] == end


def test_without_a_gateway_pods_make_the_weight_and_it_is_said() -> None:
    policy = Policy(stages=(Stage(weight=5, hold=1000.0),), preflight=False)
    world = World.serving(load=3, mode=TrafficMode.SERVICE)
    world.run(policy, ticks=20)
    decision = world.decide(policy)
    assert world.wanted == {"a": 3, "b": 1}
    assert world.weight == 5
    assert decision.effective_weight == 25


def test_without_a_gateway_half_means_as_many_pods() -> None:
    policy = Policy(stages=(Stage(weight=50, hold=1000.0),), preflight=False)
    world = World.serving(load=3, mode=TrafficMode.SERVICE)
    world.run(policy, ticks=20)
    assert world.decide(policy).effective_weight == 50


def test_stable_gets_its_capacity_back_before_the_full_weight() -> None:
    world = World.serving(nature={"b": BAD}, load=10)
    world.run(CANARY, until=Phase.ABORTING)
    world.weight, world.ready["a"], world.ready["b"] = 50, 5, 5
    seen = []
    for _ in range(30):
        decision = world.decide(CANARY)
        for action in decision.actions:
            world.apply(action)
        world.save(decision)
        seen.append((world.ready["a"], world.weight))
        world.pass_time(2)
    assert all(weight >= 0 and (ready >= 8 or weight > 0) for ready, weight in seen)
    assert world.weight == 0


def test_abort_does_not_wait_for_capacity_that_never_comes() -> None:
    world = World.serving(nature={"b": BAD}, load=10)
    world.run(CANARY, until=Phase.ABORTING)
    world.weight, world.ready["a"], world.ready["b"] = 50, 3, 5
    world.nature["a"] = NEVER_READY
    world.run(CANARY, ticks=30)
    assert world.weight == 0


def test_steps_that_do_not_rise_are_named() -> None:
    problems = step_problems((Step(weight=20), Step(weight=20), Step(weight=5)))
    assert len(problems) == 2
    assert "steps[1].weight is 20 after 20" in problems[0]
