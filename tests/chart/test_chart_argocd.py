"""What Argo CD gets: its Lua is run in Lua 5.1 with the few libraries that Argo CD allows."""

import re
from typing import Any

import pytest
import yaml
from longshore.plan.rollout.commands import Order, commands_of
from lupa import lua51

from tests.chart.rendered import CHART, Helm, Object, find, names

ALLOWED = {"os": ("date", "time"), "table": None, "package": None}
"""Argo CD opens base, table, package and a part of os; string, math, io and debug stay shut."""

PREFIX = "resource.customizations"
KIND = "longshore.dev_ModelDeployment"


class Sandbox:
    """Runs a script on an object as Argo CD does."""

    def __call__(self, script: str, obj: Object, params: dict[str, str] | None = None) -> Any:
        lua = lua51.LuaRuntime(unpack_returned_tuples=True)
        globals_ = lua.globals()
        for name in ("string", "math", "io", "debug", "coroutine"):
            globals_[name] = None
        allowed = lua.table_from({name: globals_.os[name] for name in ("date", "time")})
        globals_.os = allowed
        globals_.obj = lua.table_from(obj, recursive=True)
        if params is not None:
            globals_.actionParams = lua.table_from(params)
        return plain(lua.execute(script))


def plain(value: Any) -> Any:
    if lua51.lua_type(value) != "table":
        return value
    found = {key: plain(inner) for key, inner in value.items()}
    if found and all(isinstance(key, int) for key in found):
        return [found[key] for key in sorted(found)]
    return found


run = Sandbox()


@pytest.fixture(scope="module")
def data(helm: Helm) -> dict[str, str]:
    rendered = find(helm.render({"argocd": {"enabled": True}}), "ConfigMap", "longshore-argocd")
    found: dict[str, str] = rendered["data"]
    return found


@pytest.fixture
def health(data: dict[str, str]) -> str:
    return data[f"{PREFIX}.health.{KIND}"]


@pytest.fixture
def discovery(data: dict[str, str]) -> str:
    script: str = yaml.safe_load(data[f"{PREFIX}.actions.{KIND}"])["discovery.lua"]
    return script


@pytest.fixture
def actions(data: dict[str, str]) -> dict[str, str]:
    definitions = yaml.safe_load(data[f"{PREFIX}.actions.{KIND}"])["definitions"]
    return {definition["name"]: definition["action.lua"] for definition in definitions}


def deployment(phase: str | None = None, stable: str | None = "aaa", **more: Any) -> Object:
    """A ModelDeployment in a phase of its rollout, with conditions given as `Stalled="Reason"`."""
    conditions = [
        {"type": kind, "status": "True", "reason": more.pop(kind)}
        for kind in ("Ready", "Reconciling", "Stalled")
        if kind in more
    ]
    state = {key: value for key, value in {"phase": phase, "stable": stable}.items() if value}
    state |= more.pop("state", {})
    return {
        "apiVersion": "longshore.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "team", "generation": 3},
        "spec": {"model": {"uri": "oci://r.example/m"}},
        "status": {
            "observedGeneration": 3,
            "message": "a sentence",
            "conditions": conditions,
            "rollout": {"state": state},
            "revisions": [
                {"name": "ccc", "phase": "Canary"},
                {"name": "aaa", "phase": "Stable"},
                {"name": "fff", "phase": "Failed"},
                {"name": "bbb", "phase": "Retired"},
                {"name": "ddd", "phase": "Retired"},
            ],
            **more,
        },
    }


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        ({"metadata": {"generation": 1}}, "Progressing"),
        ({"metadata": {"generation": 1}, "status": {}}, "Progressing"),
        (deployment(observedGeneration=2, Ready="Serving"), "Progressing"),
        (deployment(Ready="Serving"), "Healthy"),
        (deployment("Stepping", Ready="Serving", Reconciling="WaitingForEvidence"), "Progressing"),
        (deployment("Stepping", Ready="Serving", Stalled="WaitingForPromotion"), "Suspended"),
        (deployment("Stepping", Ready="Serving", Stalled="Paused"), "Suspended"),
        (deployment("Stepping", Ready="Serving", Stalled="NoData"), "Degraded"),
        (deployment("Aborted", Ready="Serving", Stalled="RolloutAborted"), "Degraded"),
        (deployment(phase="Idle") | {"status": deployment()["status"] | {"phase": "Idle"}}, "Suspended"),
    ],
)
def test_health(health: str, obj: Object, expected: str) -> None:
    found = run(health, obj)
    assert found["status"] == expected
    assert isinstance(found["message"], str)


def test_what_is_being_deleted_makes_progress(health: str) -> None:
    obj = deployment(Ready="Serving")
    obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert run(health, obj) == {"status": "Progressing", "message": "being deleted"}


ALWAYS = {"rollback"}


@pytest.mark.parametrize(
    ("obj", "offered"),
    [
        (deployment("Idle", Ready="Serving"), set()),
        (deployment("Starting", stable=None), set()),
        (deployment("Preflight"), {"promote-full", "pause", "abort"}),
        (deployment("Stepping"), {"promote", "promote-full", "pause", "abort"}),
        (
            deployment("Stepping", state={"paused": True}, Stalled="Paused"),
            {"promote", "promote-full", "resume", "abort", "retry"},
        ),
        (deployment("Baking"), {"promote", "abort"}),
        (deployment("Aborting"), set()),
        (deployment("Aborted", Stalled="RolloutAborted"), {"retry"}),
    ],
)
def test_actions_are_offered_where_they_do_something(discovery: str, obj: Object, offered: set[str]) -> None:
    found = run(discovery, obj)
    assert {name for name, action in found.items() if not action["disabled"]} == offered | ALWAYS
    assert found["rollback"]["params"] == [{"name": "revision"}, {"name": "force"}]


def test_a_new_one_offers_nothing(discovery: str) -> None:
    found = run(discovery, {"metadata": {"generation": 1}})
    assert set(found) == set(Order)
    assert all(action["disabled"] for action in found.values())


@pytest.mark.parametrize("order", [order for order in Order if order is not Order.ROLLBACK])
def test_an_action_asks_what_the_operator_understands(actions: dict[str, str], order: Order) -> None:
    asked = run(actions[order], deployment("Stepping", Ready="Serving"))
    (command,) = commands_of(asked["metadata"]["annotations"])
    assert command.order is order
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", command.value)
    del asked["metadata"]["annotations"]
    assert asked == deployment("Stepping", Ready="Serving"), "nothing else is touched"


def test_an_action_keeps_the_annotations_of_others(actions: dict[str, str]) -> None:
    obj = deployment("Stepping")
    obj["metadata"]["annotations"] = {"team": "vision"}
    assert run(actions["abort"], obj)["metadata"]["annotations"]["team"] == "vision"


@pytest.mark.parametrize(
    ("params", "revision", "force"),
    [
        (None, "bbb", False),
        ({}, "bbb", False),
        ({"revision": ""}, "bbb", False),
        ({"revision": "ddd"}, "ddd", False),
        ({"revision": "fff", "force": "true"}, "fff", True),
        ({"revision": "ddd", "force": "false"}, "ddd", False),
    ],
)
def test_rollback_goes_to_the_newest_retired_revision_or_to_a_named_one(
    actions: dict[str, str], params: dict[str, str] | None, revision: str, force: bool
) -> None:
    asked = run(actions["rollback"], deployment("Idle"), params)
    (command,) = commands_of(asked["metadata"]["annotations"])
    assert (command.order, command.revision, command.force) == (Order.ROLLBACK, revision, force)


@pytest.mark.parametrize("wanted", ["zzz", "aaa", "bbb,force"])
def test_rollback_to_what_is_not_there_says_what_is(actions: dict[str, str], wanted: str) -> None:
    with pytest.raises(lua51.LuaError, match=r"there are: ccc, fff, bbb, ddd"):
        run(actions["rollback"], deployment("Idle"), {"revision": wanted})


def test_it_is_off_by_default_and_goes_where_one_says(helm: Helm) -> None:
    assert "longshore-argocd" not in names(helm.render(), "ConfigMap")
    values = {"argocd": {"enabled": True, "namespace": "argocd"}}
    assert find(helm.render(values), "ConfigMap", "longshore-argocd")["metadata"]["namespace"] == "argocd"


def test_the_guide_shows_how_to_merge_it() -> None:
    guide = (CHART.parents[1] / "docs/guides/gitops.md").read_text()
    assert "argocd.enabled=true" in guide
    assert "longshore-argocd" in guide
