"""What the host was like before the node came up, so that taking it down can put that back.

Some folders have names fixed in kubelet and containerd: those that did not exist before are removed again.
"""

import contextlib
import json
import shutil
from pathlib import Path

from e2e.cluster.files import write_atomically

_SYS = Path("/proc/sys")
_SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_FOLDERS = (
    "/run/containerd",
    "/run/kubernetes",
    "/run/nri",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/var/log/pods",
    "/usr/libexec/kubernetes",
    "/opt/containerd",
)


def record(path: Path) -> None:
    """Write down the kernel settings that a node changes and which folders are missing, once."""
    if path.exists():
        return
    settings = {}
    for name in _SETTINGS:
        with contextlib.suppress(OSError):
            settings[name] = (_SYS / name).read_text().strip()
    missing = [folder for folder in _FOLDERS if not Path(folder).exists()]
    write_atomically(path, json.dumps({"settings": settings, "missing": missing}, indent=1) + "\n")


def restore(path: Path) -> None:
    """Set the kernel settings back and remove the folders that were missing; nothing without a record."""
    try:
        content = json.loads(path.read_text())
        settings, missing = dict(content["settings"]), list(content["missing"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in set(settings) & set(_SETTINGS):
        with contextlib.suppress(OSError):
            (_SYS / name).write_text(str(settings[name]))
    for folder in set(missing) & set(_FOLDERS):
        shutil.rmtree(folder, ignore_errors=True)
