"""No field of the kind is ignored in silence."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from longshore.api import Spec
from longshore.api.serving import Toleration
from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "operator/src/longshore", ROOT / "images/optimizer/src")
UNSUPPORTED = {"signature"}
"""Fields that `longshore.plan.supported` names whatever they hold."""
WHOLE = {Toleration}
"""Types that Kubernetes is given as they are."""


def fields(annotation: Any, seen: set[type[BaseModel]]) -> Iterator[str]:
    """Names of all fields under a type, those of fields without effect left out."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen | WHOLE:
        seen.add(annotation)
        for name, field in annotation.model_fields.items():
            yield name
            if name not in UNSUPPORTED:
                yield from fields(field.annotation, seen)
    for part in get_args(annotation):
        yield from fields(part, seen)


def test_whatever_a_spec_can_say_is_read_somewhere() -> None:
    read = {
        node.attr
        for source in SOURCES
        for path in source.rglob("*.py")
        if "api" not in path.relative_to(source).parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    known = set(fields(Spec, set()))
    assert len(known) > 100
    assert known - read == set(), "accepted, and neither read nor named in FieldsSupported"
