"""The parts of an image: a directory packed into one reproducible tar (same files, same digest), and JSON."""

import hashlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from longshore_optimizer.fetch.sink import disk_problem

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer: its digest is also its diff id. Size in bytes."""

    path: Path
    digest: str
    size: int


def pack(directory: Path, target: Path, below: str = "") -> Layer:
    """Write every file of `directory` into a tar: sorted, owned by root, dated 1970, readable by all.

    `below` is the directory (`a/b`) that the files lie in when the layer is unpacked.

    Raises:
        Problem: DiskFull.
    """
    try:
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as bundle:
            for parent in reversed(PurePosixPath(below, "_").parents[:-1]):
                bundle.addfile(_directory(str(parent)))
            for path in sorted(p for p in directory.rglob("*") if not p.name.startswith(".")):
                name = str(PurePosixPath(below, path.relative_to(directory)))
                if path.is_dir():
                    bundle.addfile(_directory(name))
                    continue
                info = tarfile.TarInfo(name)
                info.mode = 0o644
                info.size = path.stat().st_size
                with path.open("rb") as file:
                    bundle.addfile(info, file)
    except OSError as error:
        raise disk_problem(error, "the artifact's layer") from error
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Layer(target, f"sha256:{digest}", target.stat().st_size)


def as_json(data: object) -> bytes:
    """Write JSON so that equal data give equal bytes."""
    return json.dumps(data, separators=(",", ":"), sort_keys=True).encode()


def write(path: Path, content: bytes) -> Layer:
    """Write a blob that is no layer, such as a config."""
    path.write_bytes(content)
    return Layer(path, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    info.mode = 0o755
    return info
