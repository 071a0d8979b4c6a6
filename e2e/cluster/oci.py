"""OCI images of one layer, written by hand: an archive to import, or blobs for a registry.

Formats: image-spec v1.1 (image-layout.md, manifest.md, config.md). The same content gives the same bytes.
"""

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image: the manifest's bytes, and every blob it names (config and layer) by digest."""

    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        """The manifest's digest, which is the image's."""
        return digest(self.manifest)


def digest(content: bytes) -> str:
    """The OCI digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image(files: Mapping[str, bytes], *, entrypoint: tuple[str, ...] = (), mode: int = 0o755) -> Image:
    """An image of these files (path -> content), owned by root, all with the same mode."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    layer = gzip.compress(tar.getvalue(), compresslevel=1, mtime=0)
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint)} if entrypoint else {},
            # Without the digest of the uncompressed layer the container runtime refuses the image.
            "rootfs": {"type": "layers", "diff_ids": [digest(tar.getvalue())]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": _LAYER, "digest": digest(layer), "size": len(layer)}],
        }
    )
    return Image(manifest, {digest(config): config, digest(layer): layer})


def archive(content: Image, name: str) -> bytes:
    """An image layout as a tar file, which `ctr images import` takes, under this name."""
    index = _json(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": _MANIFEST,
                    "digest": content.digest,
                    "size": len(content.manifest),
                    "annotations": {
                        "io.containerd.image.name": name,
                        "org.opencontainers.image.ref.name": name,
                    },
                }
            ],
        }
    )
    blobs = content.blobs | {content.digest: content.manifest}
    files = {f"blobs/{key.replace(':', '/')}": value for key, value in blobs.items()}
    files |= {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as written:
        for path, value in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(value), 0o644
            written.addfile(entry, io.BytesIO(value))
    return tar.getvalue()


def _json(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
