"""From what the API server or a file holds to the models: defaults filled in, unknown fields named."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from longshore.api.deployment import GROUP, KIND, VERSION, ModelDeployment, Spec

M = TypeVar("M", bound=BaseModel)


class SpecError(Exception):
    """The spec cannot be understood; `str()` gives a sentence that names every field and what is wrong."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def parse_spec(raw: Mapping[str, Any]) -> Spec:
    """Parse `spec` as the API server holds it; what it refuses is refused here, so a file can be checked too.

    Raises:
        SpecError: a field is missing, of another type or out of range, or a rule across fields is broken.
            In the cluster such a spec is older than the CRD.
    """
    return _parse(raw, Spec, "spec.")


def parse_manifest(raw: Mapping[str, Any]) -> ModelDeployment:
    """Parse a whole ModelDeployment from a file, as strictly as `kubectl apply` does.

    Raises:
        SpecError: it is another kind, or what `parse_spec` refuses, or it has fields that nobody knows.
    """
    given = (raw.get("apiVersion"), raw.get("kind"))
    if given != (f"{GROUP}/{VERSION}", KIND):
        raise SpecError((f"apiVersion {given[0]}, kind {given[1]}: {GROUP}/{VERSION} {KIND} is wanted here",))
    spec = raw.get("spec")
    if isinstance(spec, Mapping) and (unknown := unknown_fields(spec)):
        raise SpecError(tuple(f"{path}: there is no such field; remove it" for path in unknown))
    return _parse({k: raw[k] for k in ("metadata", "spec") if k in raw}, ModelDeployment, "")


def _parse(raw: Mapping[str, Any], model: type[M], prefix: str) -> M:
    """Parse by JSON's types, as the API server does: no text for a number, no null, and 8.0 is 8."""
    try:
        return model.model_validate_json(json.dumps(_as_stored(raw), default=str), strict=True)
    except ValidationError as error:
        raise SpecError(
            tuple(
                f"{prefix}{'.'.join(str(part) for part in e['loc'])}".rstrip(".") + f": {_message(e)}"
                for e in error.errors(include_url=False, include_input=False)
            )
        ) from None


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    text = str(error["msg"])
    return text[0].lower() + text[1:]


def _as_stored(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_stored(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_as_stored(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


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
