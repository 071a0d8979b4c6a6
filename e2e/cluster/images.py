"""Builds the project's images where their inputs changed, and gives each as an archive to load.

Images are built with buildah and exported to one OCI layout in the cache, from which the local cluster is
loaded without building anything again. For a cluster of kind Docker's engine builds them: see kind.py.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from e2e.cluster import base_image, host, layout
from e2e.cluster.buildah import Buildah
from e2e.cluster.errors import ClusterError
from e2e.cluster.files import write_atomically
from e2e.cluster.image_inputs import ImageSource, inputs_hash, sources
from e2e.cluster.layout import LayoutImage
from e2e.cluster.lock import exclusive
from e2e.cluster.paths import cache_root

Say = Callable[[str], None]

_LOCK_SECONDS = 60 * 60
_ROOM_TO_KEEP = 8 * 1024**3
_ROOM_TO_BUILD = 3 * 1024**3


def select(names: Sequence[str]) -> tuple[ImageSource, ...]:
    """The images of these names; for none, all but the optional ones.

    Raises ClusterError for a name that is not one.
    """
    known = {source.name: source for source in sources()}
    if unknown := [name for name in names if name not in known]:
        raise ClusterError(f"there is no image {unknown[0]}.\n  next step: choose from {', '.join(known)}")
    if names:
        return tuple(known[name] for name in dict.fromkeys(names))
    return tuple(source for source in known.values() if not source.optional)


def build(names: Sequence[str], say: Say, *, refresh: bool = False) -> list[LayoutImage]:
    """Build these images (for none, all that are not optional) where their inputs changed.

    With `refresh` the Debian base image is fetched anew. Raises ClusterError with the end of the build's log.
    """
    chosen = select(names)
    if not host.is_root():
        raise ClusterError(
            "building images with buildah needs root.\n"
            "  next step: `sudo make images`, or use CLUSTER=kind, where Docker's engine builds them"
        )
    host.require(host.IMAGES, say)
    cache = cache_root()
    folder = cache / "images"
    with exclusive(folder / "lock", what="building images", seconds=_LOCK_SECONDS, say=say):
        buildah = Buildah(cache)
        buildah.prepare()
        _make_room(buildah, folder, say)
        base = base_image.ensure(buildah, cache, say, refresh=refresh)
        built = [_ensure(source, base, buildah, folder, say) for source in chosen]
        for blob in list(layout.unreferenced(folder / "layout")):
            blob.unlink()
    return built


def _ensure(source: ImageSource, base: str, buildah: Buildah, folder: Path, say: Say) -> LayoutImage:
    inputs = inputs_hash(source, base)
    record = folder / f"{source.name}.json"
    ready = layout.find(folder / "layout", source.reference)
    if ready and _recorded(record) == {"inputs": inputs, "digest": ready.digest}:
        return ready
    begun = time.monotonic()
    log = folder / f"build-{source.name}.log"
    say(f"building the image {source.reference} (log: {log})")
    buildah.build(source.dockerfile, source.context, source.reference, log=log, target=source.target)
    target = folder / "layout"
    buildah.run("push", "--quiet", source.reference, f"oci:{target}:{source.reference}", seconds=600)
    image = layout.find(target, source.reference)
    if image is None:
        raise ClusterError(f"{target} lacks {source.reference}.\n  next step: remove {target} and run again")
    write_atomically(record, json.dumps({"inputs": inputs, "digest": image.digest}))
    say(f"built {source.reference} in {time.monotonic() - begun:.0f} s")
    return image


def _make_room(buildah: Buildah, folder: Path, say: Say) -> None:
    """Drop the layers that earlier builds kept when the disk gets full; say so when that is not enough."""
    if shutil.disk_usage(folder).free < _ROOM_TO_KEEP:
        say("the disk is getting full: dropping layers of earlier builds")
        buildah.run("rmi", "--prune", "--force", seconds=600)
    free = shutil.disk_usage(folder).free
    if free < _ROOM_TO_BUILD:
        raise ClusterError(
            f"only {free >> 20} MiB are free for images below {folder.parent}.\n"
            f"  next step: make room (the cache {folder.parent} can be removed whole), then run again"
        )


def _recorded(record: Path) -> object:
    try:
        return json.loads(record.read_text())
    except (OSError, ValueError):
        return None
