"""Artifacts as OCI images of one layer, which a kubelet can mount as an image volume."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from longshore.artifact.manifest import MANIFEST_NAME, Manifest
from pydantic import ValidationError

from longshore_optimizer.fetch import credentials
from longshore_optimizer.fetch.registry import (
    MANIFEST_TYPE,
    Descriptor,
    Reference,
    Registry,
    descriptor,
)
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.sink import Sink
from longshore_optimizer.store.base import TRIALS_LIMIT, Stored, tag_of, trials_tag_of
from longshore_optimizer.store.layer import CONFIG_TYPE, LAYER_TYPE, Layer, as_json, pack, write

_TRIALS_TYPE = "application/vnd.longshore.trials.v1+json"
_ARTIFACT_LABEL = "dev.longshore.manifest"
_KEY_LABEL = "dev.longshore.key"
_CONFIG_LIMIT = 4 << 20


class RegistryStore:
    """One repository of a registry; artifacts are tagged by key."""

    def __init__(self, reference: Reference, settings: FetchSettings, scratch: Path) -> None:
        """Use the repository that `reference` names; layers are packed in `scratch`."""
        self._reference = reference
        self._settings = settings
        self._scratch = scratch

    async def find(self, key: str) -> Stored | None:
        """Give the image with the key's tag if its config holds a readable manifest."""
        async with self._registry() as registry:
            found = await registry.manifest(tag_of(key))
            if found is None:
                return None
            image, digest = found
            try:
                config = await self._config(registry, descriptor(image.get("config")))
                labels = config["config"]["Labels"]
                if labels.get(_KEY_LABEL) != key:
                    return None
                manifest = Manifest.model_validate_json(labels[_ARTIFACT_LABEL])
            except (KeyError, TypeError, ValueError, ValidationError):
                return None
        return Stored(self._reference.with_digest(digest), digest.removeprefix("sha256:"), manifest)

    async def put(self, directory: Path, key: str) -> Stored:
        """Push layer, config and manifest; the tag appears last, once everything is there."""
        manifest = Manifest.model_validate_json((directory / MANIFEST_NAME).read_text())
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            layer = await asyncio.to_thread(pack, directory, Path(folder) / "layer.tar")
            config = write(Path(folder) / "config.json", image_config(layer, manifest, key))
            async with self._registry() as registry:
                await registry.push_blob(layer.path, layer.digest)
                await registry.push_blob(config.path, config.digest)
                digest = await registry.push_manifest(image_manifest(layer, config), tag_of(key))
        return Stored(self._reference.with_digest(digest), digest.removeprefix("sha256:"), manifest)

    async def recall(self, key: str) -> bytes | None:
        """Read the config of the image that holds the note."""
        async with self._registry() as registry:
            found = await registry.manifest(trials_tag_of(key))
            if found is None:
                return None
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                path = Path(folder) / "trials.json"
                with Sink(path, TRIALS_LIMIT, "the measured candidates") as sink:
                    await registry.blob(descriptor(found[0].get("config")), sink)
                return path.read_bytes()

    async def note(self, key: str, data: bytes) -> None:
        """Push the note as the config of an image without layers."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            config = write(Path(folder) / "trials.json", data)
            image = {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": _TRIALS_TYPE, "digest": config.digest, "size": config.size},
                "layers": [],
            }
            async with self._registry() as registry:
                await registry.push_blob(config.path, config.digest)
                await registry.push_manifest(as_json(image), trials_tag_of(key))

    def _registry(self) -> Registry:
        return Registry(self._reference, self._settings, credentials.load(self._settings.credentials))

    async def _config(self, registry: Registry, blob: Descriptor) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            path = Path(folder) / "config.json"
            with Sink(path, _CONFIG_LIMIT, "the image config") as sink:
                await registry.blob(blob, sink)
            data: dict[str, Any] = json.loads(path.read_text())
            return data


def image_config(layer: Layer, manifest: Manifest, key: str) -> bytes:
    """Config of the image; without `rootfs.diff_ids` a kubelet cannot unpack it.

    https://github.com/opencontainers/image-spec/blob/main/config.md
    """
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Labels": {_KEY_LABEL: key, _ARTIFACT_LABEL: manifest.model_dump_json(by_alias=True)},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "longshore-optimizer"}],
    }
    return as_json(config)


def image_manifest(layer: Layer, config: Layer) -> bytes:
    """Manifest of the image.

    https://github.com/opencontainers/image-spec/blob/main/manifest.md
    """
    return as_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config.digest, "size": config.size},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size}],
        }
    )
