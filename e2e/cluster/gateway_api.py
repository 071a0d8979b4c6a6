"""The kinds of the Gateway API, from the checked Go module that publishes them."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError
from e2e.cluster.go import environment, require_go
from e2e.cluster.paths import MODULES, cache_root

_MODULE = "sigs.k8s.io/gateway-api"
_FOLDER = "config/crd/standard"
_DOWNLOAD_SECONDS = 600


def resource_definitions() -> Path:
    """A folder of the standard channel's manifests; downloaded once, checked against go.sum.

    Raises ClusterError when Go is missing or the module cannot be had.
    """
    source = MODULES / "gateway-api"
    content = b"".join((source / name).read_bytes() for name in ("go.mod", "go.sum"))
    target = cache_root() / "cluster" / f"gateway-api-{hashlib.sha256(content).hexdigest()[:16]}"
    if target.is_dir():
        return target
    download = [require_go(), "mod", "download", "-json", _MODULE]
    answer = json.loads(run(download, cwd=source, env=environment(), seconds=_DOWNLOAD_SECONDS))
    manifests = Path(answer["Dir"]) / _FOLDER
    if not manifests.is_dir():
        raise ClusterError(
            f"{_MODULE} has no folder {_FOLDER}.\n  next step: see which version {source} names"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    for manifest in manifests.glob("*.yaml"):
        shutil.copyfile(manifest, partial / manifest.name)
    partial.chmod(0o755)
    try:
        partial.rename(target)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return target
