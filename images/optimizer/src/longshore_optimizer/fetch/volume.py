"""Models on a mounted volume (`pvc://`) or on the local disk (`file://`, a plain path)."""

import shutil
from pathlib import Path

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.sink import Sink, too_large, tree_sha256
from longshore_optimizer.fetch.uri import Uri


def volume_path(uri: Uri, settings: FetchSettings) -> Path:
    """Where `pvc://claim/path` is mounted.

    Raises:
        Problem: UnsafeArchive for a path that leaves the volume, by `..` or by a symlink.
    """
    root = settings.volume_root / uri.host
    if not root.is_dir():
        raise Problem(
            Reason.NOT_FOUND,
            f"the volume claim {uri.host} is not mounted: create the claim in the same namespace",
        )
    path = root.joinpath(*[p for p in uri.path.split("/") if p])
    if ".." in uri.path.split("/") or not path.resolve().is_relative_to(root.resolve()):
        raise Problem(Reason.UNSAFE_ARCHIVE, f"{uri.text} leaves its volume: correct the path")
    return path


def copy(source: Path, destination: Path, settings: FetchSettings, what: str) -> tuple[Path, str, int]:
    """Copy a file or a directory into `destination`; gives path, SHA-256 and size in bytes.

    Symlinks inside a directory are followed only where they stay inside it.

    Raises:
        Problem: NotFound, ExternalDataEscapes, TooLarge or DiskFull.
    """
    if not source.exists():
        raise Problem(Reason.NOT_FOUND, f"{what} does not exist: correct the path")
    if source.is_file():
        target = destination / source.name
        digest, size = _copy_file(source, target, settings, settings.max_bytes, what)
        return target, digest, size
    root = destination / "files"
    top = source.resolve()
    total = count = 0
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            continue
        count += 1
        if count > settings.max_files:
            raise too_large(what, settings.max_bytes)
        if not path.resolve().is_relative_to(top) or not path.is_file():
            raise Problem(
                Reason.EXTERNAL_DATA_ESCAPES,
                f"{path.relative_to(source)} in {what} is a link that leaves the directory: put the file "
                "itself there",
            )
        target = root / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        total += _copy_file(path, target, settings, settings.max_bytes - total, what)[1]
    if count == 0:
        raise Problem(Reason.NOT_FOUND, f"the directory {what} is empty: put the model into it")
    return root, tree_sha256(root), total


def _copy_file(source: Path, target: Path, settings: FetchSettings, limit: int, what: str) -> tuple[str, int]:
    try:
        with source.open("rb") as file, Sink(target, limit, what) as sink:
            shutil.copyfileobj(file, sink, 1 << 20)
    except PermissionError as error:
        raise Problem(
            Reason.ACCESS_DENIED, f"{what} cannot be read by this user: make the files readable to uid 65532"
        ) from error
    settings.progress(sink.size, sink.size)
    return sink.sha256, sink.size
