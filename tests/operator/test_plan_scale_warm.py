"""Warm copies: loaded pods that answer the first requests after a sleep."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longshore.api.parse import parse_spec
from longshore.api.serving import RuntimeName
from longshore.listen import targets_of
from longshore.plan.scaling import Waiting
from longshore.plan.state import ActivatorView, Endpoint
from longshore.plan.supported import unsupported_fields
from longshore.plan.zero import WARM_UP
from longshore.runtimes.registry import runtime_of
from longshore.settings import Settings

from tests.operator.sleeper import SLEEPY, Sleeper
from tests.operator.world import SPEC, KilledError, World, is_aside

KEY = ("team", "digits")
WARM = {**SLEEPY, "warm": 2}
NEXT = {"uri": "https://models.example/digits-2.onnx"}


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper(warm=2)


def revision(world: World) -> str:
    found: str = world.status["stable"]["revision"]
    return found


def chosen_by(selector: dict[str, str], pod: dict[str, Any]) -> bool:
    return selector.items() <= pod["metadata"]["labels"].items()


def test_none_is_kept_while_pods_run_and_some_are_once_none_does(sleeper: Sleeper) -> None:
    sleeper.rate = 20.0
    sleeper.tick(20)
    assert sleeper.warm == {}
    sleeper.rate = 0.0
    sleeper.sleep()
    assert sleeper.warm == {f"digits-{revision(sleeper.world)}-warm": 2}
    writes = len(sleeper.world.writes)
    sleeper.tick(10)
    assert len(sleeper.world.writes) == writes, "at rest nothing is written"


def test_the_last_pod_stays_until_a_copy_is_ready(sleeper: Sleeper) -> None:
    world = sleeper.world
    name = f"digits-{revision(world)}-warm"
    world.broken = {name}
    sleeper.tick_until(lambda: name in sleeper.warm)
    sleeper.tick(10)
    assert sleeper.replicas() == 1
    world.broken = set()
    world.work()
    sleeper.tick(1)
    assert sleeper.replicas() == 0


def test_a_copy_that_never_starts_does_not_keep_the_model_awake(sleeper: Sleeper) -> None:
    world = sleeper.world
    name = f"digits-{revision(world)}-warm"
    world.broken = {name}
    sleeper.tick_until(lambda: name in sleeper.warm)
    began = world.now
    sleeper.tick_until(lambda: sleeper.replicas() == 0)
    assert WARM_UP - 4 <= world.now - began <= WARM_UP + 4
    sleeper.tick(30)
    assert sleeper.replicas() == 0, "a copy that is lost later starts no pod either"


def test_a_copy_that_is_lost_soon_after_starts_no_pod(sleeper: Sleeper) -> None:
    sleeper.sleep()
    sleeper.world.broken = set(sleeper.warm)
    sleeper.world.work()
    for _ in range(10):
        sleeper.tick()
        assert sleeper.replicas() == 0


def test_pods_beside_a_copy_are_asked_where_their_runtime_tells() -> None:
    sleeper = Sleeper(warm=2)
    sleeper.world.edit(serving={"runtime": "Triton"})
    sleeper.world.settle()
    sleeper.tick_until(lambda: bool(sleeper.warm))
    triton = runtime_of(RuntimeName.TRITON)
    assert triton is not None
    assert [target.source for target in targets_of(sleeper.world.index, KEY)] == [triton.metrics]


def test_nothing_selects_scrapes_or_counts_a_copy_but_the_policy_covers_it(sleeper: Sleeper) -> None:
    sleeper.sleep()
    world = sleeper.world
    copies = [obj for (kind, _), obj in world.objects.items() if kind == "Pod" and is_aside(obj)]
    assert len(copies) == 2
    for (kind, _), obj in world.objects.items():
        if kind == "Service":
            assert not any(chosen_by(obj["spec"]["selector"], pod) for pod in copies)
        if kind == "Deployment":
            assert all(
                chosen_by(obj["spec"]["selector"]["matchLabels"], pod) is is_aside(obj) for pod in copies
            )
    policy = world.objects["NetworkPolicy", "digits"]["spec"]["podSelector"]
    (allowed,) = policy["matchExpressions"]
    for pod in copies:
        assert chosen_by(policy["matchLabels"], pod)
        assert pod["metadata"]["labels"][allowed["key"]] in allowed["values"]
    assert world.status["replicas"] == 0
    assert world.status["stable"]["readyReplicas"] == 0
    assert targets_of(world.index, KEY) == ()
    selector = dict(part.split("=") for part in world.status["selector"].split(","))
    assert not any(chosen_by(selector, pod) for pod in copies)


def test_a_copy_asks_for_less_cpu_and_for_the_same_memory_and_devices() -> None:
    resources = {
        "requests": {"cpu": "2", "memory": "3Gi"},
        "limits": {"memory": "3Gi", "nvidia.com/gpu": "1"},
    }
    sleeper = Sleeper(warm=2)
    sleeper.world.edit(serving={"resources": resources})
    sleeper.world.settle()
    sleeper.sleep()
    (name,) = sleeper.warm
    container = sleeper.world.objects["Deployment", name]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"] == {"cpu": "50m", "memory": "3Gi"}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_activators_learn_of_copies_as_such(sleeper: Sleeper) -> None:
    sleeper.sleep()
    activation = sleeper.world.plan().activation
    assert activation is not None
    assert activation.endpoints == (
        Endpoint("10.0.1.0", ready=True, warm=True),
        Endpoint("10.0.1.1", ready=True, warm=True),
    )
    assert sleeper.world.status["phase"] == "Idle"
    assert sleeper.world.condition("Ready")["status"] == "True"
    assert "warm copy" in sleeper.world.condition("Ready")["message"]


def test_copies_answer_until_a_pod_is_ready_and_go_then(sleeper: Sleeper) -> None:
    sleeper.sleep()
    world = sleeper.world
    stable = revision(world)
    world.broken = {stable}
    sleeper.demand(3)
    sleeper.tick(5)
    assert sleeper.replicas() >= 1
    assert sleeper.warm == {f"digits-{stable}-warm": 2}
    world.broken = set()
    world.work()
    sleeper.tick()
    assert sleeper.warm == {}
    assert ("EndpointSlice", "digits-activator") not in world.objects
    assert not [name for name in world.names("Pod") if "warm" in name]


@pytest.mark.parametrize(
    "change",
    [
        {"scaling": SLEEPY},
        {"scaling": {**WARM, "min": 1}},
        {"scaling": {"engine": "KEDA", "min": 0, "max": 3, "warm": 2}},
        {"serving": {"replicas": 1}},
    ],
)
def test_copies_that_are_of_no_use_go(sleeper: Sleeper, change: dict[str, Any]) -> None:
    sleeper.sleep()
    assert sleeper.warm
    sleeper.world.edit(**change)
    sleeper.tick(5)
    assert sleeper.warm == {}


def test_copies_stay_while_no_activator_is_heard(sleeper: Sleeper) -> None:
    sleeper.sleep()
    before = sleeper.warm
    sleeper.hear(False)
    sleeper.world.reconcile()
    assert sleeper.warm == before


def test_only_the_revision_that_answers_has_copies(sleeper: Sleeper) -> None:
    sleeper.sleep()
    world = sleeper.world
    old = revision(world)
    seen: set[str] = set()
    world.edit(model=NEXT)
    for _ in range(60):
        sleeper.tick()
        assert set(sleeper.warm) <= {f"digits-{revision(world)}-warm"}
        seen.add(revision(world))
    assert seen > {old}
    sleeper.sleep()
    assert sleeper.warm == {f"digits-{revision(world)}-warm": 2}


def test_a_revision_that_never_answered_has_none() -> None:
    world = World({**SPEC, "scaling": WARM}, Settings(activator_token="/token"))
    world.broken = {"88a47de644"}
    world.senses.activators = lambda key: ActivatorView(("10.0.0.7",), 20000, 20001, Waiting())
    world.settle()
    assert not [obj for obj in world.objects.values() if is_aside(obj)]


def test_deletion_leaves_no_copy(sleeper: Sleeper) -> None:
    sleeper.sleep()
    (name,) = sleeper.warm
    owners = sleeper.world.objects["Deployment", name]["metadata"]["ownerReferences"]
    assert [owner["uid"] for owner in owners] == [sleeper.world.root["metadata"]["uid"]]


def test_why_a_copy_does_not_start_is_told(sleeper: Sleeper) -> None:
    world = sleeper.world
    name = f"digits-{revision(world)}-warm"
    world.broken = {name}
    sleeper.tick_until(lambda: name in sleeper.warm)
    full = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient memory.",
    }
    pod = world.objects["Pod", f"{name}-0"]
    pod["status"]["conditions"].append(full)
    world._touch(pod)
    sleeper.tick_until(lambda: world.condition("Scaled").get("reason") == "Unschedulable", 10)
    assert "a warm copy does not start" in world.condition("Scaled")["message"]
    assert "Insufficient memory" in world.condition("Scaled")["message"]
    assert world.condition("Ready")["status"] == "True"


def test_where_it_has_no_effect_it_is_named() -> None:
    def named(**scaling: Any) -> list[str]:
        spec = parse_spec({**SPEC, "scaling": scaling})
        return [field for field in unsupported_fields(spec) if "scaling.warm" in field]

    assert named(min=0, max=2, warm=1) == []
    assert named(min=0, max=2) == []
    (told,) = named(min=1, max=2, warm=1)
    assert "scaling.min to 0" in told


def live(sleeper: Sleeper) -> None:
    """Go to zero, wake, go to zero again."""
    for clients in (0, 3, 0):
        sleeper.demand(clients)
        sleeper.tick_until(lambda n=clients: (sleeper.replicas() > 0) is (n > 0))  # type: ignore[misc]
        sleeper.tick(3)


def test_killed_between_any_two_writes_it_ends_in_the_same_place() -> None:
    undisturbed = Sleeper(warm=2)
    begun = len(undisturbed.world.writes)
    live(undisturbed)
    total = len(undisturbed.world.writes)
    assert undisturbed.warm
    for number in range(begun, total):
        sleeper = Sleeper(warm=2)
        sleeper.world.kill_at = number
        try:
            live(sleeper)
        except KilledError:
            sleeper.world.kill_at = None
            sleeper.world.restart()
            sleeper.hear()
            live(sleeper)
        assert sleeper.warm == undisturbed.warm, f"killed before write {number}"
        assert sleeper.replicas() == 0
        assert sleeper.world.names("Pod") == undisturbed.world.names("Pod")


def happen(sleeper: Sleeper, what: str) -> None:
    """Let one thing happen to a model and its operator."""
    world = sleeper.world
    if what == "clients":
        sleeper.demand(3)
    elif what == "silence":
        sleeper.demand(0)
    elif what in ("next", "first"):
        world.edit(model=NEXT if what == "next" else SPEC["model"])
    elif what == "broken pods":
        world.broken = set(world.replicas())
    elif what == "broken copies":
        world.broken = set(sleeper.warm)
    elif what == "mended":
        world.broken = set()
    elif what == "restart":
        world.restart()
        sleeper.hear()
    elif what in ("unheard", "heard"):
        sleeper.hear(what == "heard")
    elif what == "clock back":
        world.now -= 3600
    elif what == "lost copies":
        for name in sleeper.warm:
            world.vanish("Deployment", name)
    sleeper.tick(12 if what == "silence" else 2)


EVENTS = (
    *("clients", "silence", "silence", "next", "first", "broken pods", "broken copies", "mended"),
    *("restart", "unheard", "heard", "clock back", "lost copies"),
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(EVENTS), max_size=10))
def test_whatever_happens_a_model_left_alone_sleeps_with_its_copies(events: list[str]) -> None:
    sleeper = Sleeper(warm=2)
    for event in events:
        happen(sleeper, event)
        assert len(sleeper.warm) <= 1, "only one revision has copies"
        plan = sleeper.world.plan()
        assert plan == sleeper.world.plan()
    for event in ("mended", "heard"):
        happen(sleeper, event)
    sleeper.demand(0)
    sleeper.tick(150)
    assert sleeper.replicas() == 0
    assert sleeper.warm == {f"digits-{revision(sleeper.world)}-warm": 2}
    writes = len(sleeper.world.writes)
    sleeper.tick(5)
    assert len(sleeper.world.writes) == writes, "at rest nothing is written"
