"""One image of server and model: the server's own image with the model as one more layer.

A pod of it mounts nothing, so its start waits for no volume, and it runs wherever containers run. Layers of
the server's image are shared: a registry mounts them, and a node that has them pulls only the model.
Specification: https://github.com/opencontainers/image-spec (manifest.md, config.md).
"""

import asyncio
import json
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.credentials import Credentials
from longshore_optimizer.fetch.registry import (
    MANIFEST_TYPE,
    Descriptor,
    Reference,
    Registry,
    descriptor,
    parse_reference,
)
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.sink import Sink
from longshore_optimizer.fetch.uri import parse
from longshore_optimizer.store.layer import CONFIG_TYPE, LAYER_TYPE, as_json, pack, write

MODEL_PATH = "/mnt/model"
"""Where the model lies in the image: where a pod of the operator has it too."""

_CONFIG_LIMIT = 4 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LAYER_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER_TYPE}+gzip",
    LAYER_TYPE: LAYER_TYPE,
    f"{LAYER_TYPE}+gzip": f"{LAYER_TYPE}+gzip",
    f"{LAYER_TYPE}+zstd": f"{LAYER_TYPE}+zstd",
}
"""Layers that are understood, and what they are called in an OCI manifest."""


@dataclass(frozen=True)
class Base:
    """The server's image: its config as it is, and its layers from the lowest up."""

    config: dict[str, Any]
    layers: tuple[Descriptor, ...]


def image_reference(image: str) -> Reference:
    """Read an image's name as it stands in a pod; without a host it lies on Docker Hub.

    Raises:
        Problem: UnsupportedUri.
    """
    host, slash, rest = image.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, rest = "docker.io", image if slash else f"library/{image}"
    return parse_reference(parse(f"oci://{host}/{rest}"))


async def put_image(
    server: str,
    directory: Path,
    target: Reference,
    tag: str,
    settings: FetchSettings,
    login: Credentials,
    scratch: Path,
) -> str:
    """Push the server's image with a model directory on top; gives `oci://host/repository@sha256:...`.

    The same model on the same image gives the same digest.

    Args:
        server: name of the server's image, as a pod would name it.
        directory: what lies at `MODEL_PATH`.
        target: repository to push to.
        tag: under which it can be found there.
        settings: bounds.
        login: credentials of both registries.
        scratch: where layers are packed and copied.

    Raises:
        Problem: NotFound or UnsupportedUri where the server's image cannot be had; AccessDenied, FetchFailed,
            StoreFailed or DiskFull.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        async with (
            Registry(image_reference(server), settings, login) as source,
            Registry(target, settings, login) as registry,
        ):
            base = await _read_base(source, server, folder)
            layer = await asyncio.to_thread(pack, directory, folder / "layer.tar", MODEL_PATH.lstrip("/"))
            config = write(folder / "config.json", as_json(_config(base, layer.digest)))
            for blob in base.layers:
                await registry.take_blob(blob, source, folder)
            await registry.push_blob(layer.path, layer.digest)
            await registry.push_blob(config.path, config.digest)
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": CONFIG_TYPE, "digest": config.digest, "size": config.size},
                "layers": [
                    *(
                        {"mediaType": _LAYER_TYPES[b.media_type], "digest": b.digest, "size": b.size}
                        for b in base.layers
                    ),
                    {"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size},
                ],
            }
            return target.with_digest(await registry.push_manifest(as_json(manifest), tag))


async def _read_base(source: Registry, server: str, folder: Path) -> Base:
    found = await source.manifest(source.reference.version)
    manifest = found[0] if found else None
    if manifest is not None and "manifests" in manifest:
        manifest = await _for_this_machine(source, manifest)
    if manifest is None:
        raise Problem(
            Reason.NOT_FOUND,
            f"the server's image {server} does not exist at {source.reference.host} for "
            f"{_architecture()}: push it there, or name another; for a ModelDeployment without such an image "
            "set serving.packaging to Volume",
        )
    try:
        layers = tuple(descriptor(layer) for layer in manifest["layers"])
        blob = descriptor(manifest["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(
            Reason.INVALID_MODEL,
            f"{server} is no container image ({type(error).__name__}: {error}): name the image of a server",
        ) from error
    unknown = [layer.media_type for layer in layers if layer.media_type not in _LAYER_TYPES]
    if unknown:
        raise Problem(
            Reason.INVALID_MODEL,
            f"{server} has a layer of type {unknown[0]}, which cannot be copied: push it as an OCI image",
        )
    path = folder / "base.json"
    with Sink(path, _CONFIG_LIMIT, f"the config of {server}") as sink:
        await source.blob(blob, sink)
    try:
        config = json.loads(path.read_bytes())
        known = len(config["rootfs"]["diff_ids"])
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(
            Reason.INVALID_MODEL,
            f"the config of {server} cannot be read ({type(error).__name__}: {error}): push it again",
        ) from error
    if known != len(layers):
        raise Problem(
            Reason.INVALID_MODEL, f"{server} has {len(layers)} layers and names {known}: push it again"
        )
    return Base(config, layers)


async def _for_this_machine(source: Registry, index: dict[str, Any]) -> dict[str, Any] | None:
    entries = index["manifests"] if isinstance(index["manifests"], list) else []
    for entry in entries:
        place = (entry.get("platform") or {}) if isinstance(entry, dict) else {}
        if (place.get("os"), place.get("architecture")) == ("linux", _architecture()):
            found = await source.manifest(str(entry.get("digest", "")))
            return found[0] if found else None
    return None


def _architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _config(base: Base, diff_id: str) -> dict[str, Any]:
    """Give the base's config with one layer more, and arguments with which it runs as it is."""
    settings = {**(base.config.get("config") or {}), "Cmd": ["--model", MODEL_PATH]}
    said = {"created": "1970-01-01T00:00:00Z", "created_by": "longshore-optimizer", "comment": "model"}
    return {
        **base.config,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*base.config["rootfs"]["diff_ids"], diff_id]},
        "history": [*(base.config.get("history") or []), said],
    }
