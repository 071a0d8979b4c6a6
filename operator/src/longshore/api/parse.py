"""From what the API server holds to the models: defaults filled in, unknown fields named."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from longshore.api.deployment import Spec


@dataclass(frozen=True)
class SpecError(Exception):
    """The spec cannot be understood; `str()` gives a sentence that names every field and what is wrong."""

    problems: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.problems)


def parse_spec(raw: Mapping[str, Any]) -> Spec:
    """Parse `spec` as the API server holds it.

    Raises:
        SpecError: a field is missing or out of range. The API server refuses most of this already, but a
            spec may be older than the CRD.
    """
    try:
        return Spec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(
            tuple(
                f"spec.{'.'.join(str(p) for p in e['loc'])}: {e['msg'][0].lower()}{e['msg'][1:]}"
                for e in error.errors(include_url=False, include_input=False)
            )
        ) from None


def unknown_fields(
    raw: Mapping[str, Any], model: type[BaseModel] = Spec, path: str = "spec"
) -> tuple[str, ...]:
    """Name the fields of `raw` that this version does not know, as dotted paths in sorted order."""
    known = {(field.alias or name): field.annotation for name, field in model.model_fields.items()}
    found: list[str] = []
    for key in sorted(raw):
        where = f"{path}.{key}"
        if key not in known:
            found.append(where)
            continue
        inner = _model_in(known[key])
        if inner is None:
            continue
        value = raw[key]
        if isinstance(value, Mapping):
            found.extend(unknown_fields(value, inner, where))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    found.extend(unknown_fields(item, inner, f"{where}[{index}]"))
    return tuple(found)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model within `X | None`, `tuple[X, ...]` and `Annotated[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
