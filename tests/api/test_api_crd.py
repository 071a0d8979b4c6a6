"""The CustomResourceDefinition: current, described, bounded, and taken by a real API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from longshore.api.base import Part
from longshore.api.crd import custom_resource_definition, render

from tests.api.cases import RULES, TAKEN, spec
from tests.kube import Kube, model, models_path

CHECKED_IN = Path(__file__).parents[2] / "crds" / "longshore.dev_modeldeployments.yaml"
FREE = (
    ".status.rollout",
    ".status.scaling",
    ".spec.serving.podTemplate.affinity",
    ".spec.serving.podTemplate.topologySpreadConstraints[]",
)
"""What is passed on to the Pod as it is; the API server checks it there."""

Node = dict[str, Any]


def schema() -> Node:
    version = custom_resource_definition()["spec"]["versions"][0]
    root: Node = version["schema"]["openAPIV3Schema"]
    return root


def nodes(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    yield path, node
    for name, inner in node.get("properties", {}).items():
        if not path and name in ("apiVersion", "kind", "metadata"):
            continue
        yield from nodes(inner, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


def test_checked_in_definition_is_current() -> None:
    assert CHECKED_IN.read_text() == render(), "run `make generate`"


def test_definition_fits_an_annotation_and_helm() -> None:
    assert len(CHECKED_IN.read_bytes()) < 256 * 1024


def test_every_field_is_described() -> None:
    assert [path for path, node in nodes(schema()) if not node.get("description")] == []


def test_everything_is_bounded() -> None:
    unbounded = []
    for path, node in nodes(schema()):
        kind = node.get("type")
        if kind == "string" and not ("maxLength" in node or "enum" in node):
            unbounded.append(path)
        if kind == "array" and "maxItems" not in node:
            unbounded.append(path)
        if "additionalProperties" in node and "maxProperties" not in node:
            unbounded.append(path)
        counted = kind in ("integer", "number") and path.startswith(".spec")
        if counted and not {"minimum", "maximum"} <= set(node):
            unbounded.append(path)
    assert unbounded == []


def test_schema_is_structural() -> None:
    for path, node in nodes(schema()):
        assert node.get("type") or node.get("x-kubernetes-int-or-string"), path
        assert "$ref" not in node, path
        assert "oneOf" not in node, path
        if node.get("x-kubernetes-preserve-unknown-fields"):
            assert path in FREE


def test_no_default_is_written_into_specs() -> None:
    assert [path for path, node in nodes(schema()) if "default" in node] == []


def test_every_rule_has_a_case_and_says_what_to_do() -> None:
    messages = [
        rule["message"] for _, node in nodes(schema()) for rule in node.get("x-kubernetes-validations", ())
    ]
    told = [words for _, words in RULES.values()]
    todo = ("add ", "remove ", "set ", "raise ", "pin ", "give ", "name it", "change it", "shorten ")
    for message in messages:
        assert any(word in message for word in todo), message
        assert "metadata.name" in message or any(words in message for words in told), message
    assert len(messages) == sum(len(part.RULES) for part in _parts())


def _parts() -> Iterator[type[Part]]:
    waiting: list[type[Part]] = [Part]
    while waiting:
        part = waiting.pop()
        if part.__module__.startswith("longshore."):
            yield part
        waiting.extend(part.__subclasses__())


@pytest.mark.apiserver
def test_api_server_takes_it_as_structural(kube: Kube) -> None:
    crd = kube.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modeldeployments.longshore.dev")
    assert crd is not None
    conditions = {c["type"]: c["status"] for c in crd["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert "NonStructuralSchema" not in conditions


@pytest.mark.apiserver
def test_unknown_fields_are_refused_by_strict_validation(kube: Kube) -> None:
    manifest = model("typo", spec(serving={"replica": 2}))
    answer = kube.call("POST", models_path("default") + "?fieldValidation=Strict&dryRun=All", manifest)
    assert answer.status == 400
    assert 'unknown field "spec.serving.replica"' in answer.message


@pytest.mark.apiserver
@pytest.mark.parametrize(
    ("name", "words"),
    [("a" * 41, "40 characters at most"), ("9lives", "a letter first"), ("a.b", "a letter first")],
)
def test_names_that_no_service_can_have_are_refused(kube: Kube, name: str, words: str) -> None:
    answer = kube.call("POST", models_path("default") + "?dryRun=All", model(name))
    assert answer.status == 422
    assert words in answer.message


@pytest.mark.apiserver
def test_scale_subresource_sets_replicas_and_tells_the_selector(kube: Kube) -> None:
    namespace = kube.namespace("api-scale")
    kube.create(models_path(namespace), model("scaled", namespace=namespace))
    kube.server.kubectl("scale", "-n", namespace, "modeldeployment/scaled", "--replicas=3")
    stored = kube.get(models_path(namespace, "scaled"))
    assert stored is not None
    assert stored["spec"]["serving"]["replicas"] == 3
    kube.merge(models_path(namespace, "scaled/status"), {"status": {"replicas": 2, "selector": "a=b"}})
    scale = kube.get(models_path(namespace, "scaled/scale"))
    assert scale is not None
    assert scale["status"] == {"replicas": 2, "selector": "a=b"}


@pytest.mark.apiserver
def test_columns_are_what_a_person_asks(kube: Kube) -> None:
    namespace = kube.namespace("api-columns")
    kube.create(models_path(namespace), model("digits", namespace=namespace))
    moment = "2026-01-02T03:04:05Z"
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Serving",
        "message": "",
        "lastTransitionTime": moment,
    }
    status = {
        "conditions": [ready],
        "phase": "Starting",
        "message": "revision b is starting",
        "stable": {"revision": "a", "weight": 90},
        "canary": {"revision": "b", "weight": 10},
        "replicas": 2,
        "url": "http://digits",
    }
    kube.merge(models_path(namespace, "digits/status"), {"status": status})
    head, row = kube.server.kubectl("get", "-n", namespace, "modeldeployments").strip().splitlines()
    assert head.split() == ["NAME", "READY", "PHASE", "STABLE", "CANARY", "WEIGHT", "REPLICAS", "URL", "AGE"]
    assert row.split()[:8] == ["digits", "True", "Starting", "a", "b", "10", "2", "http://digits"]
    wide = kube.server.kubectl("get", "-n", namespace, "md", "-o", "wide")
    assert "revision b is starting" in wide


@pytest.mark.apiserver
def test_the_stored_spec_is_the_applied_one(kube: Kube) -> None:
    namespace = kube.namespace("api-stored")
    for name, given in TAKEN.items():
        stored = kube.create(models_path(namespace), model(f"t-{name}", given, namespace))
        if name not in ("nulls", "whole-float"):
            assert stored["spec"] == given, name


@pytest.mark.apiserver
def test_explain_tells_what_a_field_means(kube: Kube) -> None:
    text = kube.server.kubectl("explain", "modeldeployment.spec.model.sha256")
    assert "SHA-256 of the file" in text
