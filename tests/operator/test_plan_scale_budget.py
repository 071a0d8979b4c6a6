"""A budget over a namespace: who gets pods when all cannot have them, and that it is said."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from longshore.budgets import budget_of
from longshore.index import Index
from longshore.plan.scaling import Budget, Claim
from longshore.plan.scaling.queueing import ServiceCurve
from longshore.plan.state import Scaled
from longshore.senses import Senses

from tests.operator.loaded import Loaded
from tests.operator.sleeper import Sleeper
from tests.operator.world import World

CURVE = ServiceCurve(0.0, 0.02, 1, 0.1)
SCALING = {"min": 1, "max": 10, "metrics": [{"type": "RequestsPerSecond", "target": 10}]}
OTHER = ("team", "other")


def scaling(**budget: Any) -> dict[str, Any]:
    return {**SCALING, "budget": {"maxReplicas": 6, **budget}}


def claim(want: int, **more: Any) -> Claim:
    base = Claim("team/other", 0, 1.0, want, min=1, rate=want * 10.0, curve=CURVE, standing=want)
    return replace(base, **more)


def model(name: str, budget: Mapping[str, Any] | None, namespace: str = "team") -> dict[str, Any]:
    return {
        "apiVersion": "longshore.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{namespace}-{name}",
            "resourceVersion": "1",
        },
        "spec": {"model": {"uri": "oci://r/m:1"}, "scaling": {} if budget is None else {"budget": budget}},
    }


def add_other(world: World, pods: int, budget: Mapping[str, Any], asks: Claim | None = None) -> None:
    """Put another model with its pods into the namespace; `asks` is what it wants of the budget."""
    world._stored(model("other", budget))
    labels = {"longshore.dev/name": "other", "longshore.dev/revision": "a"}
    labels |= {"app.kubernetes.io/managed-by": "longshore", "longshore.dev/component": "server"}
    world._stored(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "other-a", "namespace": "team", "labels": labels},
            "spec": {"replicas": pods, "template": {"metadata": {"labels": labels}}},
        }
    )
    if asks is not None:
        world.senses.scaled[OTHER] = Scaled(claim=asks)


def add_others_copies(world: World, copies: int) -> None:
    """Put warm copies of the other model beside its pods."""
    obj = copy.deepcopy(world.objects["Deployment", "other-a"])
    obj["metadata"]["name"] = "other-a-warm"
    obj["metadata"]["labels"]["app.kubernetes.io/component"] = "warm"
    obj["spec"]["replicas"] = copies
    world._stored(obj)


def set_other(world: World, pods: int) -> None:
    obj = world.objects["Deployment", "other-a"]
    obj["spec"]["replicas"] = pods
    world._touch(obj)


def test_a_budget_that_suffices_changes_nothing() -> None:
    loaded = Loaded(scaling(), rate=28)
    add_other(loaded.world, 3, {"maxReplicas": 6}, claim(3))
    loaded.tick(20)
    assert loaded.replicas() == 3
    assert loaded.world.condition("Scaled")["status"] == "True"


def test_what_a_spent_budget_refuses_is_explained() -> None:
    loaded = Loaded(scaling(), rate=58)
    add_other(loaded.world, 4, {"maxReplicas": 6, "priority": 5}, claim(4))
    loaded.tick(20)
    assert loaded.replicas() == 2
    told = loaded.world.condition("Scaled")
    assert (told["status"], told["reason"]) == ("False", "BudgetSpent")
    assert "2 of 6 wanted: the budget of 6 pods is spent" in told["message"]
    assert "4 pods are with higher priorities than 0" in told["message"]
    assert loaded.world.condition("Ready")["status"] == "True"
    assert loaded.world.condition("Stalled")["status"] == "False"


def test_the_bound_holds_until_the_other_has_given_its_pods_up() -> None:
    loaded = Loaded(scaling(priority=5), rate=58)
    add_other(loaded.world, 5, {"maxReplicas": 6}, claim(5))
    loaded.tick(20)
    assert loaded.replicas() == 1
    assert "once others have given theirs up" in loaded.world.condition("Scaled")["message"]
    set_other(loaded.world, 1)
    loaded.tick(3)
    assert loaded.replicas() == 5


def test_a_grant_that_shrinks_takes_pods_at_once() -> None:
    loaded = Loaded(scaling(), rate=48)
    add_other(loaded.world, 1, {"maxReplicas": 6, "priority": 5}, claim(1))
    loaded.tick(20)
    assert loaded.replicas() == 5
    loaded.world.senses.scaled[OTHER] = Scaled(claim=claim(4))
    loaded.tick(2)
    assert loaded.replicas() == 2


def test_a_model_that_may_not_sleep_keeps_its_last_pod() -> None:
    loaded = Loaded(scaling(), rate=48)
    add_other(loaded.world, 6, {"maxReplicas": 6, "priority": 5}, claim(6))
    loaded.tick(20)
    assert loaded.replicas() == 1


def test_pods_of_a_model_that_does_not_scale_count_as_they_are() -> None:
    loaded = Loaded(scaling(priority=100), rate=58)
    add_other(loaded.world, 4, {"maxReplicas": 6})
    loaded.tick(20)
    assert loaded.replicas() == 2


def test_warm_copies_of_others_count_as_pods() -> None:
    loaded = Loaded(scaling(priority=100), rate=58)
    add_other(loaded.world, 1, {"maxReplicas": 6})
    add_others_copies(loaded.world, 3)
    loaded.tick(20)
    assert loaded.replicas() == 2


def test_copies_that_the_budget_does_not_pay_for_are_not_kept_and_that_is_said() -> None:
    sleeper = Sleeper(warm=2, budget={"maxReplicas": 4})
    add_other(sleeper.world, 3, {"maxReplicas": 4, "priority": 5}, claim(3))
    sleeper.sleep()
    assert sum(sleeper.warm.values()) == 1
    told = sleeper.world.condition("Scaled")
    assert (told["status"], told["reason"]) == ("False", "BudgetSpent")
    assert "the budget of 4 pods is spent" in told["message"]
    sleeper.world.senses.scaled[OTHER] = Scaled(claim=claim(4, standing=3))
    sleeper.tick(3)
    assert sleeper.warm == {}, "another's load comes before a copy that waits"
    sleeper.world.senses.scaled[OTHER] = Scaled(claim=claim(2))
    set_other(sleeper.world, 2)
    sleeper.tick(3)
    assert sum(sleeper.warm.values()) == 2
    assert sleeper.world.condition("Scaled")["status"] == "True"


def test_a_copy_and_the_pod_that_it_stands_for_never_pass_the_bound_together() -> None:
    sleeper = Sleeper(warm=1, budget={"maxReplicas": 1})
    most = 0

    def standing() -> int:
        return sleeper.replicas() + sum(sleeper.warm.values())

    for clients in (0, 1, 0):
        if clients:
            sleeper.demand(clients)
        else:
            sleeper.waiting = replace(sleeper.waiting, demand=0, active=0)
        for _ in range(40):
            sleeper.tick()
            most = max(most, standing())
        assert (sleeper.replicas(), sum(sleeper.warm.values())) == ((1, 0) if clients else (0, 1))
    assert most == 1


def test_another_engine_is_counted_but_not_bounded_and_that_is_said() -> None:
    world = World(
        {"model": {"uri": "https://m.example/a.onnx"}, "serving": {"replicas": 3}, "scaling": scaling()}
    )
    world.settle()
    assert sum(world.replicas().values()) == 3
    assert "spec.scaling.budget" in world.condition("FieldsSupported")["message"]


def test_members_are_those_that_name_the_budget_in_the_namespace_and_the_tightest_bound_holds() -> None:
    index = Index()
    index.put(model("own", {"name": "gold", "maxReplicas": 9}))
    index.put(model("close", {"name": "gold", "maxReplicas": 7, "maxCost": 3.5}))
    index.put(model("none", None))
    index.put(model("apart", {"name": "silver", "maxReplicas": 1}))
    index.put(model("broken", {"name": "gold", "maxReplicas": "x"}))
    index.put(model("far", {"name": "gold", "maxReplicas": 1}, namespace="elsewhere"))
    found = budget_of(index, ("team", "own"), Senses())
    assert found is not None
    assert (found.name, found.max_pods, found.max_cost) == ("gold", 7, 3.5)
    assert [c.key for c in found.others] == ["team/close"]
    assert budget_of(index, ("team", "none"), Senses()) is None


def test_noise_moves_no_pod_between_equals() -> None:
    granted = (3, 3)
    for turn in range(20):
        own = Claim("n/a", 0, 1.0, 6, 1, rate=200 + turn % 3, curve=CURVE, standing=granted[0])
        other = Claim("n/b", 0, 1.0, 6, 1, rate=200 + (turn + 1) % 3, curve=CURVE, standing=granted[1])
        first = Budget("default", max_pods=6, others=(other,)).grant(own)
        second = Budget("default", max_pods=6, others=(own,)).grant(other)
        assert first is not None
        assert second is not None
        granted = (first.pods, second.pods)
    assert granted == (3, 3)
