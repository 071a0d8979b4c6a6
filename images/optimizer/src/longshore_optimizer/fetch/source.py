"""One call for every scheme: `fetch(uri, directory)` gives verified bytes on the local disk."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import archive, content, credentials, http, hub, image, objectstore, volume
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.uri import Uri, parse


@dataclass(frozen=True)
class Fetched:
    """What lies on the disk: a file, or a directory of files.

    `sha256` is that of the file as it was fetched, of the image manifest, or of a directory's listing.
    """

    path: Path
    sha256: str
    size_bytes: int


async def fetch(
    uri_text: str, destination: Path, settings: FetchSettings, sha256: str | None = None
) -> Fetched:
    """Fetch a uri into `destination` (made if absent), verify its digest and unpack an archive.

    Raises:
        Problem: any reason of fetching; DeadlineExceeded when `settings.deadline` seconds passed.
    """
    uri = parse(uri_text)
    await asyncio.to_thread(destination.mkdir, parents=True, exist_ok=True)
    try:
        async with asyncio.timeout(settings.deadline):
            path, digest, size = await _download(uri, destination, settings)
    except TimeoutError as error:
        raise Problem(
            Reason.DEADLINE_EXCEEDED,
            f"fetching {uri_text} took longer than {settings.deadline:g} s: raise the budget or use a "
            "faster source",
            retryable=True,
        ) from error
    if sha256 is not None and digest != sha256.removeprefix("sha256:"):
        raise Problem(
            Reason.DIGEST_MISMATCH,
            f"{uri_text} has sha256 {digest}, not {sha256}: correct the sha256, or find out who changed "
            "the file",
        )
    if path.is_file() and content.is_archive(path):
        target = destination / "unpacked"
        await asyncio.to_thread(archive.extract, path, target, settings)
        await asyncio.to_thread(archive.flatten, target)
        path.unlink()
        path = target
    return Fetched(path, digest, size)


async def _download(uri: Uri, destination: Path, settings: FetchSettings) -> tuple[Path, str, int]:
    secret = credentials.load(settings.credentials)
    if uri.scheme in ("https", "http", "hf"):
        url = hub.hub_url(uri, settings.hub_endpoint) if uri.scheme == "hf" else uri.text
        target = destination / (_safe_name(uri.name) or "model")
        digest, size = await http.download(url, target, settings, secret)
        return target, digest, size
    if uri.scheme in ("s3", "gs", "az"):
        return await objectstore.download(uri, destination, settings, secret)
    if uri.scheme == "oci":
        return await image.download(uri, destination, settings, secret)
    if uri.scheme == "pvc":
        source = volume.volume_path(uri, settings)
    elif settings.allow_file:
        source = Path(uri.path)
    else:
        raise Problem(
            Reason.UNSUPPORTED_URI,
            "file:// works on the command line only: put the model on a volume and use pvc://",
        )
    return await asyncio.to_thread(volume.copy, source, destination, settings, uri.text)


def _safe_name(name: str) -> str:
    cleaned = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:128]
    return cleaned.strip(".")


def free_bytes(path: Path) -> int:
    """Free space of the disk that holds `path`, in bytes."""
    return shutil.disk_usage(path).free
