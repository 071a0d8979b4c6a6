"""Hashes that decide what is new: a revision of the pods, and the key of an artifact."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from longshore.api import Model, Optimize, Serving, Spec
from longshore.api.serving import Packaging, RuntimeName
from longshore.resources.deployment import serving_millicores

REVISION_LENGTH = 10
KEY_LENGTH = 8


def revision_of(spec: Spec, gpu: str = "") -> str:
    """Name the revision: the hash of what makes a pod answer differently.

    `gpu` is what its TensorRT engine is built for, empty without one and where that is not known.

    Values that equal their default are left out, so that neither a later version with more fields nor a
    default written out makes a new revision.
    """
    serving = _meaning(spec.serving)
    serving.pop("replicas", None)
    parts = {"model": _meaning(spec.model), "optimize": _optional(spec.optimize), "serving": serving}
    return _hash(parts | ({"gpu": gpu} if gpu else {}))[:REVISION_LENGTH]


def artifact_key(
    model: Model,
    optimize: Optimize | None,
    serving: Serving,
    server_image: str,
    engine: tuple[str, ...] = (),
) -> str:
    """Hash what decides the artifact: model, optimize and the target it is measured for.

    `server_image` counts where the model is put onto it; `engine` tells what a TensorRT engine is built for,
    and with, where there is one.
    """
    parts: dict[str, object] = {
        "model": _meaning(model),
        "optimize": _optional(optimize),
        "cpu": serving_millicores(serving),
        "runtime": (RuntimeName.ONNX_RUNTIME if serving.runtime is RuntimeName.AUTO else serving.runtime),
    }
    if serving.packaging is Packaging.IMAGE:
        parts["image"] = server_image
    if engine:
        parts["engine"] = engine
    return _hash(parts)[:KEY_LENGTH]


def _meaning(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _optional(part: BaseModel | None) -> dict[str, Any] | None:
    return None if part is None else _meaning(part)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
