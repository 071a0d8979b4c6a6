"""The uv that `make` uses: an installed one that works, else the one that it has put into the project."""

import shutil
import subprocess
from pathlib import Path

_OWN = Path(__file__).resolve().parents[1] / ".cache" / "uv" / "bin" / "uv"


def find_uv() -> str | None:
    """Give the program's path, None where there is neither."""
    installed = shutil.which("uv")
    if installed is not None:
        # A launcher may stand on the PATH whose version of Python has none.
        works = subprocess.run([installed, "--version"], capture_output=True, check=False).returncode == 0
        if works:
            return installed
    return str(_OWN) if _OWN.is_file() else None
