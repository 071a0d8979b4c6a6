"""The rights of the operator's roles: what its code does, and nothing else."""

from collections import defaultdict
from typing import Any

import pytest
from longshore.resources.kinds import CHILDREN, EVENT, LEASE, MODEL_DEPLOYMENT, NODE, POD, Kind

from tests.chart.rendered import Helm, environment, find

Rights = dict[tuple[str, str], set[str]]


def _granted(rules: list[dict[str, Any]]) -> Rights:
    rights: Rights = defaultdict(set)
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                rights[(group, resource)] |= set(rule["verbs"])
    return dict(rights)


def _place(kind: Kind, subresource: str = "") -> tuple[str, str]:
    return kind.group, kind.plural + (f"/{subresource}" if subresource else "")


def _needed() -> Rights:
    """What `longshore.cluster` is asked for: watches, server-side apply (patch, and create of what is new),
    live reads before what cannot be taken back, deletion, finalizers and status of the root, events."""
    rights: Rights = {
        _place(MODEL_DEPLOYMENT): {"get", "list", "watch", "patch"},
        _place(MODEL_DEPLOYMENT, "status"): {"patch"},
        _place(MODEL_DEPLOYMENT, "finalizers"): {"update"},
        _place(POD): {"list", "watch"},
        _place(EVENT): {"create"},
    }
    for kind in CHILDREN:
        rights[_place(kind)] = {"get", "list", "watch", "create", "patch", "delete"}
    return rights


def test_the_cluster_role_is_exactly_what_the_code_does(helm: Helm) -> None:
    rules = find(helm.render(), "ClusterRole", "longshore-system-longshore")["rules"]
    definitions = {("apiextensions.k8s.io", "customresourcedefinitions"): {"list", "watch"}}
    assert _granted(rules) == _needed() | definitions


def test_nodes_are_read_only_where_engines_are_built_for_their_gpus(helm: Helm) -> None:
    values = {"images": {"tensorrt": "registry.example/ml/tensorrt:1"}}
    objects = helm.render(values)
    rights = _granted(find(objects, "ClusterRole", "longshore-system-longshore")["rules"])
    assert rights[_place(NODE)] == {"list"}
    deployment = find(objects, "Deployment", "longshore")
    assert environment(deployment)["LONGSHORE_TENSORRT_IMAGE"] == values["images"]["tensorrt"]
    assert "LONGSHORE_TENSORRT_IMAGE" not in environment(find(helm.render(), "Deployment", "longshore"))


def test_the_roles_of_namespaces_are_exactly_what_the_code_does(helm: Helm) -> None:
    objects = helm.render({"watchNamespaces": ["team-a"]})
    (role,) = [
        o for o in objects if o["kind"] == "Role" and o["metadata"]["name"].endswith("system-longshore")
    ]
    assert role["metadata"]["namespace"] == "team-a"
    assert _granted(role["rules"]) == _needed()


def test_the_lease_is_the_only_thing_written_in_the_operators_namespace(helm: Helm) -> None:
    rules = find(helm.render(), "Role", "longshore-leader")["rules"]
    assert _granted(rules) == {_place(LEASE): {"get", "create", "update"}}
    with_activators = find(helm.render({"activator": {"enabled": True}}), "Role", "longshore-leader")["rules"]
    assert _granted(with_activators) == _granted(rules) | {_place(POD): {"list"}}
    assert {"get", "update"} in [set(r["verbs"]) for r in rules if r.get("resourceNames") == ["longshore"]]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["team-a"]}])
def test_no_role_reads_a_secret(helm: Helm, values: dict[str, Any]) -> None:
    for obj in helm.render(values):
        for rule in obj.get("rules") or ():
            assert not {"secrets", "serviceaccounts/token", "pods/exec"} & set(rule["resources"]), obj[
                "metadata"
            ]
