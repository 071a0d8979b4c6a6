"""The project's images in the cluster's registry, as an installation from a registry has them."""

import fcntl
import json

import httpx

from e2e.cluster import layout
from e2e.cluster.image_inputs import TAG
from e2e.cluster.layout import LayoutImage
from e2e.cluster.paths import cache_root
from e2e.kit.registry import push_blob


def push(registry: str, name: str) -> str:
    """Push the built image `name` unless the registry has it; gives `repository:tag`, the tag by its content.

    Raises:
        LookupError: it was not built.
    """
    reference = f"localhost/longshore/{name}:{TAG}"
    image = layout.find(cache_root() / "images" / "layout", reference)
    if image is None:
        raise LookupError(f"{reference} is not built: run `make images`")
    repository, tag = f"longshore/{name}", image.digest.removeprefix("sha256:")[:12]
    # Of several processes that pushed the same image at once, one has had its manifest refused (400).
    with (cache_root() / "images" / "push.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _push(f"http://{registry}/v2/{repository}", tag, image)
    return f"{repository}:{tag}"


def _push(repository: str, tag: str, image: LayoutImage) -> None:
    with httpx.Client(base_url=repository, timeout=60) as client:
        if client.head(f"/manifests/{tag}", headers={"Accept": _type_of(image)}).status_code == 200:
            return
        for digest in image.blobs[1:]:
            if client.head(f"/blobs/{digest}").status_code != 200:
                with image.blob(digest).open("rb") as content:
                    push_blob(client, digest, content)
        put = client.put(
            f"/manifests/{tag}",
            content=image.blob(image.digest).read_bytes(),
            headers={"Content-Type": _type_of(image)},
        )
        put.raise_for_status()


def _type_of(image: LayoutImage) -> str:
    manifest = json.loads(image.blob(image.digest).read_bytes())
    return str(image.descriptor.get("mediaType") or manifest["mediaType"])
