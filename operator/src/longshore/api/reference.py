"""The reference page of the kind, as Markdown generated from the models."""

import json
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from longshore.api.crd import custom_resource_definition
from longshore.api.deployment import GROUP, KIND, VERSION, ModelDeployment

_HEAD = f"""\
<!-- Generated from operator/src/longshore/api by `make generate`; do not edit. -->
# {KIND}

`{GROUP}/{VERSION}`, namespaced, short name `md`. Every field but `spec.model.uri` is optional. Defaults are
filled in when the operator reads the spec and are never written back, so what Git holds and what the cluster
holds stay the same. A field that this version accepts without effect is named, with what happens instead, in
the condition `FieldsSupported`.
"""

_BOUNDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " entries"),
)
"""Pairs of keys that bound a value, and the unit that they count."""


def render() -> str:
    """Give the reference as Markdown: one table for each part of `spec` and `status`."""
    version = custom_resource_definition()["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    lines = [_HEAD]
    if rules := root.get("x-kubernetes-validations"):
        lines += ["The API server refuses an object that breaks a rule:\n", *_rules(rules), ""]
    for name in ("spec", "status"):
        part = _model_in(ModelDeployment.model_fields[name].annotation)
        lines += _section(name, root["properties"][name], part, 2)
    return "\n".join(lines).rstrip() + "\n"


def _section(path: str, node: dict[str, Any], model: type[BaseModel] | None, level: int) -> Iterator[str]:
    """Yield a heading, a table of the fields, the rules, then the sections of what lies below."""
    yield f"{'#' * min(level, 4)} {path}\n"
    yield f"{node.get('description', '')}\n"
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    fields = {(f.alias or name): f for name, f in model.model_fields.items()} if model else {}
    required = node.get("required", ())
    below: list[tuple[str, dict[str, Any], type[BaseModel] | None]] = []
    for name, child in node["properties"].items():
        inner = child.get("items", child)
        if "properties" in inner:
            shown = f"{path}.{name}" + ("[]" if inner is not child else "")
            described = inner | {"description": child.get("description", "")}
            below.append((shown, described, _model_in(fields[name].annotation)))
        default = "**required**" if name in required else _default(fields[name])
        yield f"| `{name}` | {_type(child)} | {default} | {_meaning(child)} |"
    yield ""
    if rules := node.get("x-kubernetes-validations"):
        yield "Rules:\n"
        yield from _rules(rules)
        yield ""
    for inner_path, inner, inner_model in below:
        yield from _section(inner_path, inner, inner_model, level + 1)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model within `X | None`, `tuple[X, ...]` and `Annotated[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _type(node: dict[str, Any]) -> str:
    if "properties" in node:
        return "object"
    if node.get("type") == "array":
        inner = _type(node["items"])
        return f"list of {inner if inner != 'object' else 'objects'}"
    if isinstance(node.get("additionalProperties"), dict):
        return f"map to {_type(node['additionalProperties'])}"
    return str(node.get("type", "any" if not node.get("x-kubernetes-int-or-string") else "number or string"))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or isinstance(value, BaseModel) or value in ((), {}, ""):
        return ""
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def _meaning(node: dict[str, Any]) -> str:
    inner = node.get("items", node)
    text = str(node.get("description", "")).replace("|", "\\|")
    if values := inner.get("enum"):
        text += " One of " + ", ".join(f"`{value}`" for value in values) + "."
    if bounds := [words for bound in _BOUNDS if (words := _bound(node, *bound))]:
        text += f" ({', '.join(bounds)})"
    return text


def _bound(node: dict[str, Any], low: str, high: str, unit: str) -> str:
    """Say what bounds a value: `1 to 64`, `at most 8 items`; nothing where nothing does."""
    least, most = node.get(low), node.get(high)
    if least is not None and most is not None:
        if least == most:
            return f"{_number(least)}{unit}"
        above = "above " if node.get("exclusiveMinimum") else ""
        below = "below " if node.get("exclusiveMaximum") else ""
        return f"{above}{_number(least)} to {below}{_number(most)}{unit}"
    if least is not None:
        return f"at least {_number(least)}{unit}"
    return f"at most {_number(most)}{unit}" if most is not None else ""


def _number(value: float) -> str:
    return f"{value:,.10g}".replace(",", " ") if abs(value) >= 10000 else f"{value:g}"


def _rules(rules: list[dict[str, str]]) -> Iterator[str]:
    for rule in rules:
        yield f"- {rule['message']}."


if __name__ == "__main__":
    sys.stdout.write(render())
