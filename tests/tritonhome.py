"""Triton for tests and benches, assembled from PyPI into the project's cache like the image of it."""

import fcntl
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from e2e.uv import find_uv

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "triton"


@dataclass(frozen=True)
class TritonHome:
    """An assembled Triton: its Python, and the directory with `bin`, `backends` and `caches`."""

    python: Path
    home: Path


def triton_home() -> TritonHome:
    """Assemble Triton on first use (some 300 MB; seconds with a warm cache of packages) and give its place.

    Raises `subprocess.CalledProcessError` where the packages cannot be installed.
    """
    directory = CACHE / "environment"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        uv = find_uv()
        subprocess.run(
            [_python(uv), ROOT / "images/triton/assemble.py", directory, *(["--uv", uv] if uv else [])],
            check=True,
        )
    return TritonHome(directory / "bin" / "python", directory / "tritonserver")


def _python(uv: str | None) -> str:
    """Find a Python that the server's Python backend is built for; uv brings one where there is none."""
    if sys.version_info < (3, 13):
        return sys.executable
    for version in ("3.11", "3.12"):
        if found := shutil.which(f"python{version}"):
            return found
    if uv is None:
        raise RuntimeError("Triton needs Python 3.11 or 3.12 beside this one: install it, or uv")
    done = subprocess.run([uv, "python", "find", "3.11"], check=True, capture_output=True, text=True)
    return done.stdout.strip()
