"""The image of a pod's sandbox: one small static program, compiled once."""

import hashlib
import tempfile
from pathlib import Path

from e2e.cluster import oci
from e2e.cluster.command import run
from e2e.cluster.config import SANDBOX_IMAGE

_SOURCE = Path(__file__).parent / "pause" / "pause.c"


def sandbox_archive(cache: Path) -> Path:
    """An archive of the sandbox image, to import; compiled when the cache does not have it."""
    key = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    target = cache / "cluster" / f"pause-{key}.tar"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as folder:
            program, archive = Path(folder, "pause"), Path(folder, "pause.tar")
            run(["gcc", "-static", "-Os", "-s", "-o", program, _SOURCE], seconds=120)
            image = oci.image({"pause": program.read_bytes()}, entrypoint=("/pause",))
            archive.write_bytes(oci.archive(image, SANDBOX_IMAGE))
            archive.rename(target)
    return target
