"""Loads images into the container runtime of the local node."""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError
from e2e.cluster.layout import LayoutImage, write_archive

_IMPORT_SECONDS = 300


def load(image: LayoutImage, binaries: Path, socket: Path, say: Callable[[str], None]) -> bool:
    """Import an image unless the runtime has this very one under its name; whether it was imported.

    Raises ClusterError with the runtime's message.
    """
    ctr: list[str | Path] = [binaries / "ctr", "--address", socket, "--namespace", "k8s.io"]
    listing = run([*ctr, "images", "list", f"name=={image.name}"])
    if image.digest in listing:
        return False
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [str(word) for word in (*ctr, "images", "import", "-")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        assert process.stdin is not None
        cause = ""
        try:
            with process.stdin:
                write_archive(image, process.stdin)
        except (ClusterError, BrokenPipeError) as error:
            cause = str(error)
        code = process.wait(timeout=_IMPORT_SECONDS)
        errors.seek(0)
        message = errors.read().decode(errors="replace").strip()[-1000:]
    if code or cause:
        raise ClusterError(
            f"the container runtime did not take {image.name}: {message or cause}\n"
            "  next step: `make cluster-status`, and read containerd.log"
        )
    say(f"loaded {image.name}")
    return True
