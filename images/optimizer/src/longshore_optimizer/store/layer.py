"""Packs an artifact directory into one reproducible tar: same files, same bytes, same digest."""

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

from longshore_optimizer.fetch.sink import disk_problem


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer: its digest is also its diff id. Size in bytes."""

    path: Path
    digest: str
    size: int


def pack(directory: Path, target: Path) -> Layer:
    """Write every file of `directory` into a tar: sorted, owned by root, dated 1970, readable by all.

    Raises:
        Problem: DiskFull.
    """
    try:
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as bundle:
            for path in sorted(p for p in directory.rglob("*") if not p.name.startswith(".")):
                info = tarfile.TarInfo(path.relative_to(directory).as_posix())
                info.mode = 0o755 if path.is_dir() else 0o644
                if path.is_dir():
                    info.type = tarfile.DIRTYPE
                    bundle.addfile(info)
                    continue
                info.size = path.stat().st_size
                with path.open("rb") as file:
                    bundle.addfile(info, file)
    except OSError as error:
        raise disk_problem(error, "the artifact's layer") from error
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Layer(target, f"sha256:{digest}", target.stat().st_size)
