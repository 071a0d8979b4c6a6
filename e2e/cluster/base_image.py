"""The Debian image that all Dockerfiles start from: pulled, or made by mmdebstrap without a registry."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from e2e.cluster.buildah import Buildah
from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY

BASE_IMAGE = "docker.io/library/debian:bookworm-slim"

_DOCKERFILE = REPOSITORY / "images" / "base" / "Dockerfile"
_PULL_SECONDS = 120
_BOOTSTRAP_SECONDS = 20 * 60
_SUITE = "bookworm"
_OPTIONS = (
    "--variant=minbase",
    # Without this package dpkg brings one that wants all of Perl, and the tree must be merged beforehand.
    "--include=usr-is-merged",
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    *(
        f"--dpkgopt=path-exclude=/usr/share/{folder}/*"
        for folder in ("doc", "groff", "info", "linda", "lintian", "locale", "man")
    ),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    # The host's own names stay on the host.
    '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"',
)


def ensure(buildah: Buildah, cache: Path, say: Callable[[str], None], *, refresh: bool = False) -> str:
    """Have the base image in buildah's storage, and return its id.

    Raises ClusterError when there is neither a registry nor a Debian mirror.
    """
    if not refresh and (known := buildah.image_id(BASE_IMAGE)):
        return known
    try:
        buildah.run("pull", "--quiet", BASE_IMAGE, seconds=_PULL_SECONDS)
    except ClusterError as no_registry:
        say("no registry has the Debian base image: making it from packages")
        try:
            _bootstrap(buildah, cache, refresh=refresh)
        except ClusterError as no_mirror:
            raise ClusterError(
                f"there is neither a registry nor a mirror to have {BASE_IMAGE} from: {no_mirror}\n"
                f"  before that: {no_registry}\n"
                "  next step: see that docker.io or deb.debian.org is reached (HTTPS_PROXY), then run again"
            ) from None
    if not (made := buildah.image_id(BASE_IMAGE)):
        raise ClusterError(f"buildah lost {BASE_IMAGE}.\n  next step: remove {buildah.storage} and run again")
    return made


def _bootstrap(buildah: Buildah, cache: Path, *, refresh: bool) -> None:
    key = hashlib.sha256("\0".join((_SUITE, *_OPTIONS)).encode()).hexdigest()[:16]
    tree = cache / "images" / f"base-{key}.tar"
    if refresh or not tree.is_file():
        tree.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=tree.parent) as folder:
            partial = Path(folder, "base.tar")
            command: list[str | Path] = ["mmdebstrap", "--quiet", *_OPTIONS, _SUITE, partial]
            run(command, seconds=_BOOTSTRAP_SECONDS, env=os.environ | {"TMPDIR": folder})
            partial.rename(tree)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=tree.parent) as folder:
        os.link(tree, Path(folder, "base.tar"))
        buildah.build(_DOCKERFILE, Path(folder), BASE_IMAGE, log=cache / "images" / "build-base.log")
