"""The CustomResourceDefinition, generated from the models: `python -m longshore.api.crd > crds/...`."""

import sys
from typing import Any

import yaml
from pydantic import BaseModel

from longshore.api.base import Part, Rule
from longshore.api.deployment import GROUP, KIND, PLURAL, VERSION, ModelDeployment

COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Phase", "string", ".status.phase", 0),
    ("Stable", "string", ".status.stable.revision", 0),
    ("Canary", "string", ".status.canary.revision", 0),
    ("Weight", "integer", ".status.canary.weight", 0),
    ("Replicas", "integer", ".status.replicas", 0),
    ("Url", "string", ".status.url", 0),
    ("Reason", "string", ".status.message", 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)
"""Printer columns: name, type, JSON path, priority (1: only with -o wide)."""


def custom_resource_definition() -> dict[str, Any]:
    """Build the CustomResourceDefinition of `ModelDeployment`."""
    schema = _schema(ModelDeployment)
    spec, status = schema["properties"]["spec"], schema["properties"]["status"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["md"],
                "categories": ["all", "longshore"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.serving.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, **({"priority": p} if p else {})}
                        for name, kind, path, p in COLUMNS
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": schema["description"],
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": status,
                            },
                            "x-kubernetes-validations": _validations(ModelDeployment.RULES),
                        }
                    },
                }
            ],
        },
    }


def render() -> str:
    """Give the CustomResourceDefinition as YAML, with a header that says where it comes from."""
    body = yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=110)
    return f"# Generated from operator/src/longshore/api by `make generate`; do not edit.\n{body}"


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    raw = model.model_json_schema(by_alias=True)
    return _structural(raw, raw.get("$defs", {}), _rules_by_name(model))


def _rules_by_name(model: type[BaseModel]) -> dict[str, tuple[Rule, ...]]:
    """Map the name of every model that is a `Part` to its rules."""
    found: dict[str, tuple[Rule, ...]] = {}
    waiting: list[type[Part]] = [Part]
    while waiting:
        part = waiting.pop()
        found[part.__name__] = part.RULES
        waiting.extend(part.__subclasses__())
    return found


_KEPT = (
    "type",
    "format",
    "description",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "minimum",
    "maximum",
    "required",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)


def _structural(
    node: dict[str, Any], defs: dict[str, Any], rules: dict[str, tuple[Rule, ...]]
) -> dict[str, Any]:
    """Turn a pydantic JSON schema into a structural one (Kubernetes: "Specifying a structural schema")."""
    node = _resolve(node, defs)
    result = {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        result["enum"] = [node["const"]]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in node:
            result |= {bound: node[exclusive], exclusive: True}
    if result.get("type") == "integer":
        result.setdefault("format", "int64")
    if result.get("type") == "array":
        result["items"] = _structural(node.get("items", {}), defs, rules)
        result.setdefault("x-kubernetes-list-type", "atomic")
    if node.get("x-kubernetes-int-or-string"):
        del result["type"]
        result |= {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    if "properties" in node:
        result["properties"] = {k: _structural(v, defs, rules) for k, v in node["properties"].items()}
        if validations := _validations(rules.get(node.get("title", ""), ())):
            result["x-kubernetes-validations"] = validations
    elif isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(node["additionalProperties"], defs, rules)
    return result


def _resolve(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Follow references and drop the null of optional fields; the field's own description wins."""
    while True:
        if "$ref" in node:
            target = defs[node["$ref"].rsplit("/", 1)[-1]]
        elif "anyOf" in node:
            (target,) = [option for option in node["anyOf"] if option.get("type") != "null"]
        else:
            return node
        own = {k: v for k, v in node.items() if k not in ("$ref", "anyOf", "title", "default")}
        node = {**target, **own}


def _validations(rules: tuple[Rule, ...]) -> list[dict[str, str]]:
    return [{"rule": r.rule, "message": r.message} for r in rules]


if __name__ == "__main__":
    sys.stdout.write(render())
