"""What the host must have: Debian packages, installed where we may, named where we may not."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.command import run, succeeds
from e2e.cluster.errors import ClusterError

_APT_SECONDS = 15 * 60


@dataclass(frozen=True)
class Need:
    """A Debian package, and what shows that it is there: a command, or else a file."""

    package: str
    command: str = ""
    file: str = ""
    pkg_config: str = ""

    def met(self) -> bool:
        """Whether the host has it, from this package or from elsewhere."""
        if self.pkg_config:
            return succeeds(["pkg-config", "--exists", self.pkg_config])
        if self.file:
            return Path(self.file).exists()
        return shutil.which(self.command, path=search_path()) is not None


BUILD = (
    Need("gcc", command="gcc"),
    Need("libc6-dev", file="/usr/include/stdio.h"),
    Need("pkg-config", command="pkg-config"),
    Need("libseccomp-dev", pkg_config="libseccomp"),
)
NODE = (
    Need("iproute2", command="ip"),
    Need("iptables", command="iptables"),
    Need("mount", command="mount"),
    Need("containernetworking-plugins", file="/usr/lib/cni/bridge"),
)
TESTS = (Need("strace", command="strace"),)
IMAGES = (
    Need("buildah", command="buildah"),
    Need("mmdebstrap", command="mmdebstrap"),
)


def search_path() -> str:
    """PATH with the folders of system programs, which an ordinary user's may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def is_root() -> bool:
    """Whether this process may do everything."""
    return os.geteuid() == 0


def require(needs: Iterable[Need], say: Callable[[str], None]) -> None:
    """Make sure of these packages: install what is missing as root on Debian, else say what to install.

    Raises ClusterError that names the missing packages.
    """
    missing = [need for need in needs if not need.met()]
    if not missing:
        return
    names = " ".join(need.package for need in missing)
    install = f"apt-get install -y --no-install-recommends {names}"
    if not is_root() or shutil.which("apt-get") is None:
        raise ClusterError(f"this machine lacks the packages {names}.\n  next step: as root, `{install}`")
    say(f"installing {names}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], seconds=_APT_SECONDS, env=environment)
    run(install.split(), seconds=_APT_SECONDS, env=environment)
    if left := [need.package for need in missing if not need.met()]:
        raise ClusterError(
            f"installed {names}, but {', '.join(left)} still shows no sign of being there.\n"
            f"  next step: `dpkg -L {left[0]}`, and compare with host.py"
        )
