"""The kinds of other projects, from the checked Go modules that publish them."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError
from e2e.cluster.go import environment, require_go
from e2e.cluster.paths import MODULES, cache_root

_DOWNLOAD_SECONDS = 600


@dataclass(frozen=True)
class Definitions:
    """Manifests of a Go module whose version and checksum stand in `modules/<name>`."""

    name: str
    module: str
    folder: str
    pattern: str


GATEWAY_API = Definitions("gateway-api", "sigs.k8s.io/gateway-api", "config/crd/standard", "*.yaml")
KEDA = Definitions("keda", "github.com/kedacore/keda/v2", "config/crd/bases", "keda.sh_scaledobjects.yaml")


def manifests(wanted: Definitions) -> Path:
    """A folder of the manifests; downloaded once, checked against go.sum.

    Raises ClusterError when Go is missing or the module cannot be had.
    """
    source = MODULES / wanted.name
    content = b"".join((source / name).read_bytes() for name in ("go.mod", "go.sum"))
    target = cache_root() / "cluster" / f"{wanted.name}-{hashlib.sha256(content).hexdigest()[:16]}"
    if target.is_dir():
        return target
    download = [require_go(), "mod", "download", "-json", wanted.module]
    answer = json.loads(run(download, cwd=source, env=environment(), seconds=_DOWNLOAD_SECONDS))
    found = sorted((Path(answer["Dir"]) / wanted.folder).glob(wanted.pattern))
    if not found:
        raise ClusterError(
            f"{wanted.module} has no {wanted.folder}/{wanted.pattern}.\n"
            f"  next step: see which version {source} names"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    for manifest in found:
        shutil.copyfile(manifest, partial / manifest.name)
    partial.chmod(0o755)
    try:
        partial.rename(target)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return target
