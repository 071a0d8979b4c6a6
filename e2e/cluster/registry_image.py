"""The registry that the chart runs in the cluster, as an image: the node's own registry program, packed.

It is the same program (CNCF distribution) under the name that the chart gives, so that an installation
with the chart's defaults works on a machine that reaches no public registry.
"""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from e2e.cluster import oci
from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError

NAME = "docker.io/library/registry:3"
_IMPORT_SECONDS = 120
_MARK = "longshore-registry-program"


def load(binaries: Path, socket: Path, say: Callable[[str], None]) -> None:
    """Import the image unless the node has it, made from this very program.

    Raises ClusterError with the container runtime's message.
    """
    program = (binaries / "registry").read_bytes()
    mark = hashlib.sha256(program).hexdigest()[:16]
    ctr = [str(binaries / "ctr"), "--address", str(socket), "--namespace", "k8s.io"]
    if f"{_MARK}={mark}" in run([*ctr, "images", "list", f"name=={NAME}"]):
        say(f"{NAME} is loaded already")
        return
    image = oci.image({"bin/registry": program}, entrypoint=("/bin/registry",))
    done = subprocess.run(
        [*ctr, "images", "import", "-"],
        input=oci.archive(image, NAME),
        capture_output=True,
        check=False,
        timeout=_IMPORT_SECONDS,
    )
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()[-1000:]
        raise ClusterError(
            f"the container runtime did not take {NAME}: {message}\n"
            "  next step: `make cluster-status`, and read containerd.log"
        )
    run([*ctr, "images", "label", NAME, f"{_MARK}={mark}"])
    say(f"loaded {NAME}, made from the node's own registry program")
