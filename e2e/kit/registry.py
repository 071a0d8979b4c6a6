"""Push a model directory to an OCI registry as a user's own tooling would: one layer, plain files."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from typing import IO

import httpx


def push(registry: str, repository: str, tag: str, files: Mapping[str, bytes]) -> str:
    """Push files as an image that a kubelet can mount; gives the digest of its manifest.

    Source: OCI image specification; `rootfs.diff_ids` is the digest of the uncompressed layer.
    """
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    layer = gzip.compress(raw.getvalue(), mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(raw.getvalue())]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        }
    ).encode()
    with httpx.Client(base_url=f"http://{registry}/v2/{repository}", timeout=30) as client:
        for blob in (layer, config):
            push_blob(client, _digest(blob), blob)
        client.put(
            f"/manifests/{tag}",
            content=manifest,
            headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
        ).raise_for_status()
    return _digest(manifest)


def push_blob(client: httpx.Client, digest: str, content: bytes | IO[bytes]) -> None:
    """Upload a blob to the repository whose address the client has as its base."""
    begun = client.post("/blobs/uploads/")
    begun.raise_for_status()
    location = httpx.URL(begun.headers["location"]).copy_merge_params({"digest": digest})
    client.put(location, content=content).raise_for_status()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}
