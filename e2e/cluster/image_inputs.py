"""What an image is built from, and the hash that tells whether it has to be built again."""

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.paths import REPOSITORY

TAG = "dev"
_GATEWAY = Path(__file__).parent / "gateway"
_IGNORED = {"__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_IGNORED_ENDINGS = (".pyc", ".egg-info")


@dataclass(frozen=True)
class ImageSource:
    """One image of the project: its name in registries, its Dockerfile and the context that this copies from.

    One that is `optional` (large, or needed by few) is built only when named. `target` is the
    stage that is built, the last one where it is empty.
    """

    name: str
    dockerfile: Path
    context: Path
    optional: bool = False
    target: str = ""

    @property
    def reference(self) -> str:
        """The full name the cluster's pods use."""
        return f"localhost/longshore/{self.name}:{TAG}"


def sources(repository: Path = REPOSITORY) -> tuple[ImageSource, ...]:
    """Every image that is built from this repository, by name."""
    images = repository / "images"
    names = ("operator", "optimizer", "server", "activator")
    return (
        *(ImageSource(name, images / name / "Dockerfile", repository) for name in names),
        # NVIDIA's own image cannot be had everywhere; this variant is made of packages.
        ImageSource("triton", images / "triton" / "Dockerfile.pytriton", repository, optional=True),
        ImageSource("server-openvino", images / "server" / "Dockerfile", repository, True, "openvino"),
        ImageSource("traefik", _GATEWAY / "Dockerfile", _GATEWAY, optional=True),
    )


def copied_paths(dockerfile: str) -> list[str]:
    """The paths of the context that a Dockerfile copies, in its order, each once."""
    joined = dockerfile.replace("\\\n", " ")
    found: dict[str, None] = {}
    for line in joined.splitlines():
        words = shlex.split(line, comments=True) if line.split()[:1] in (["COPY"], ["ADD"]) else []
        if not words or any(word.startswith("--from") for word in words):
            continue
        found |= dict.fromkeys(word for word in words[1:-1] if not word.startswith("--"))
    return list(found)


def inputs_hash(source: ImageSource, base: str) -> str:
    """A hash of the Dockerfile, every file it copies and the base image's key."""
    digest = hashlib.sha256()
    text = source.dockerfile.read_text()
    digest.update(f"{base}\0{text}\0".encode())
    digest.update(source.target.encode())
    for path in copied_paths(text):
        for file in _files(source.context / path):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            executable = os.access(file, os.X_OK)
            digest.update(f"{file.relative_to(source.context)}\0{executable}\0{content}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(set(folders) - _IGNORED)
        folders[:] = [name for name in folders if not name.endswith(_IGNORED_ENDINGS)]
        found += [Path(folder, name) for name in sorted(files) if not name.endswith(_IGNORED_ENDINGS)]
    return found
