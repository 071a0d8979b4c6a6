"""Pulls a model that lies in a registry: a container image, an ORAS artifact or a model artifact."""

from pathlib import Path, PurePosixPath
from typing import Any

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import archive
from longshore_optimizer.fetch.credentials import Credentials
from longshore_optimizer.fetch.registry import Descriptor, Registry, descriptor, parse_reference
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.sink import Sink
from longshore_optimizer.fetch.uri import Uri

_TITLE = "org.opencontainers.image.title"
_FILE_PATHS = ("org.cncf.model.filepath", "org.cnai.model.filepath")
_UNPACK = "io.deis.oras.content.unpack"


async def download(
    uri: Uri, destination: Path, settings: FetchSettings, credentials: Credentials
) -> tuple[Path, str, int]:
    """Pull every layer into one directory; gives the directory, the manifest's SHA-256 and the size in bytes.

    Layers that are tars are unpacked; others are files named by their title annotation
    (https://oras.land/docs/how_to_guides/pushing_and_pulling) or file path
    (https://github.com/modelpack/model-spec).

    Raises:
        Problem: NotFound, AccessDenied, FetchFailed, DigestMismatch, UnsafeArchive, TooLarge, InvalidModel.
    """
    reference = parse_reference(uri)
    async with Registry(reference, settings, credentials) as registry:
        found = await registry.manifest(reference.version)
        if found is None:
            raise Problem(Reason.NOT_FOUND, f"{uri.text} does not exist: correct the uri or push the image")
        manifest, digest = found
        if "manifests" in manifest:
            manifest = await _from_index(registry, manifest, uri)
        layers = _layers(manifest, uri)
        root = destination / "files"
        root.mkdir(parents=True, exist_ok=True)
        if sum(layer.size for layer in layers) > settings.max_bytes:
            raise Problem(
                Reason.TOO_LARGE,
                f"{uri.text} is larger than the limit of {settings.max_bytes} bytes: raise "
                "LONGSHORE_MAX_FETCH_BYTES",
            )
        for number, layer in enumerate(layers):
            staged = destination / f"layer-{number}"
            with Sink(staged, settings.max_bytes, uri.text) as sink:
                await registry.blob(layer, sink)
            _place(layer, staged, root, settings)
            staged.unlink(missing_ok=True)
    return root, digest.removeprefix("sha256:"), sum(layer.size for layer in layers)


async def _from_index(registry: Registry, index: dict[str, Any], uri: Uri) -> dict[str, Any]:
    entries = index.get("manifests")
    entries = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []

    def preference(entry: dict[str, Any]) -> int:
        platform = entry.get("platform") or {}
        if (platform.get("os"), platform.get("architecture")) == ("linux", "amd64"):
            return 0
        return 2 if platform.get("os") == "unknown" else 1

    for entry in sorted(entries, key=preference):
        found = await registry.manifest(str(entry.get("digest", "")))
        if found is not None:
            return found[0]
    raise Problem(Reason.NOT_FOUND, f"the image index {uri.text} names no image that exists: push it again")


def _layers(manifest: dict[str, Any], uri: Uri) -> list[Descriptor]:
    try:
        layers = [descriptor(layer) for layer in manifest.get("layers") or manifest.get("blobs") or []]
    except (TypeError, ValueError) as error:
        raise Problem(
            Reason.INVALID_MODEL, f"the manifest of {uri.text} is malformed: {error}; push it again"
        ) from error
    if not layers:
        raise Problem(Reason.INVALID_MODEL, f"{uri.text} holds no layer, so no model: push the model into it")
    return layers


def _place(layer: Descriptor, staged: Path, root: Path, settings: FetchSettings) -> None:
    title = next((layer.annotations[k] for k in (*_FILE_PATHS, _TITLE) if layer.annotations.get(k)), None)
    unpack = layer.annotations.get(_UNPACK) == "true" or ".tar" in layer.media_type
    if title is not None and not unpack:
        path = PurePosixPath(title)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise Problem(
                Reason.UNSAFE_ARCHIVE, f"the layer named {title!r} points outside the model: rename it"
            )
        target = root.joinpath(*path.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(target)
        return
    if archive.is_tar(staged):
        archive.extract(staged, root, settings)
        return
    target = root / (PurePosixPath(title).name if title else "model.onnx")
    staged.rename(target)
