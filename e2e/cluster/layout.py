"""An OCI image layout in a folder (image-spec v1.1, image-layout.md), from which single images are read."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from e2e.cluster.errors import ClusterError


@dataclass(frozen=True)
class LayoutImage:
    """One image of a layout: its manifest's descriptor and the digests of all its blobs, manifest first."""

    folder: Path
    name: str
    descriptor: dict[str, object]
    blobs: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return str(self.descriptor["digest"])

    def blob(self, digest: str) -> Path:
        """The file of one of its blobs."""
        return _blob(self.folder, digest)


def find(folder: Path, name: str) -> LayoutImage | None:
    """The image of this name, if the layout has it whole; None otherwise."""
    try:
        manifests = json.loads((folder / "index.json").read_text())["manifests"]
        for descriptor in manifests:
            if descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name") == name:
                digest = descriptor["digest"]
                manifest = json.loads(_blob(folder, digest).read_bytes())
                parts = [manifest["config"], *manifest["layers"]]
                blobs = (digest, *dict.fromkeys(part["digest"] for part in parts))
                whole = all(_blob(folder, blob).is_file() for blob in blobs)
                return LayoutImage(folder, name, descriptor, blobs) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def write_archive(image: LayoutImage, output: IO[bytes]) -> None:
    """Write an image as the tar file that `ctr images import` and `kind load image-archive` take."""
    annotations = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name}
    index = {"schemaVersion": 2, "manifests": [image.descriptor | {"annotations": annotations}]}
    small = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    try:
        with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for name, content in small.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            for digest in image.blobs:
                path = image.blob(digest)
                entry = tarfile.TarInfo(f"blobs/{digest.replace(':', '/')}")
                entry.size = path.stat().st_size
                with path.open("rb") as blob:
                    archive.addfile(entry, blob)
    except OSError as error:
        raise ClusterError(
            f"writing the archive of {image.name} failed: {error}.\n"
            "  next step: see that the disk is not full"
        ) from None


def _blob(folder: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return folder / "blobs" / algorithm / value


def unreferenced(folder: Path) -> Iterator[Path]:
    """The blobs that no image of the layout needs any more."""
    names = [
        descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name", "")
        for descriptor in json.loads((folder / "index.json").read_text())["manifests"]
    ]
    images = [image for name in names if (image := find(folder, name))]
    needed = {_blob(folder, digest) for image in images for digest in image.blobs}
    yield from (path for path in (folder / "blobs").glob("*/*") if path not in needed)
