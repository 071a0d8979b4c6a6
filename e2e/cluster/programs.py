"""Which programs the node needs, which Go module each comes from, and the key that names a build of it."""

import hashlib
import json
import platform
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster.paths import MODULES

KUBERNETES_VERSION = "v1.36.3"

# Raised when the way of building changes in a manner that no other part of the key shows.
_RECIPE = 1


@dataclass(frozen=True)
class Module:
    """One Go module whose `tool` lines name the programs, with the flags it is built with."""

    name: str
    programs: tuple[str, ...]
    cgo: bool = False
    ldflags: str = ""
    tags: str = ""
    renames: dict[str, str] = field(default_factory=dict)

    def key(self, folder: Path = MODULES) -> str:
        """A short hash of all that decides what the build gives: go.mod, go.sum, flags, platform."""
        digest = hashlib.sha256()
        parts = {
            "recipe": _RECIPE,
            "cgo": self.cgo,
            "ldflags": self.ldflags,
            "tags": self.tags,
            "renames": self.renames,
            "programs": self.programs,
            "platform": [platform.system(), platform.machine()],
        }
        digest.update(json.dumps(parts, sort_keys=True).encode())
        for name in ("go.mod", "go.sum"):
            content = (folder / self.name / name).read_bytes()
            digest.update(b"\0%s %d\0" % (name.encode(), len(content)) + content)
        return digest.hexdigest()[:16]


def _kubernetes_ldflags() -> str:
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    values = {
        "gitVersion": KUBERNETES_VERSION,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
    }
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


KUBERNETES = Module(
    "kubernetes",
    ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"),
    ldflags=_kubernetes_ldflags(),
)
# etcd's program is called `server` there.
ETCD = Module("etcd", ("etcd", "registry"), renames={"server": "etcd"})
CONTAINERD = Module(
    "containerd",
    ("containerd", "containerd-shim-runc-v2", "ctr"),
    cgo=True,
    tags="no_btrfs,no_devmapper,no_zfs,no_aufs",
)
RUNC = Module("runc", ("runc",), cgo=True, tags="seccomp")
COREDNS = Module("coredns", ("coredns",))
HELM = Module("helm", ("helm",))

MODULES_OF_NODE = (KUBERNETES, ETCD, CONTAINERD, RUNC, COREDNS, HELM)
MODULES_OF_API_SERVER = (KUBERNETES, ETCD)


def set_key(modules: tuple[Module, ...], folder: Path = MODULES) -> str:
    """The key of several modules together."""
    keys = sorted(f"{module.name} {module.key(folder)}" for module in modules)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
