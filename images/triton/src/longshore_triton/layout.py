"""Finds the models in an artifact: one file, one Triton model directory, or a whole Triton repository."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longshore_triton import modelconfig
from longshore_triton.backends import FILES, backend_of
from longshore_triton.errors import StartError

MOST_MODELS = 128
MOST_FILES = 10_000
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,255}$")
_KNOWN_FILES = frozenset(name for names in FILES.values() for name in names)


@dataclass(frozen=True)
class ModelDirectory:
    """One model as it lies in the artifact.

    Attributes:
        name: its own name; empty for a model that takes the name of the deployment.
        path: its directory.
        versions: directory of each version, by number.
        config: the text of its `config.pbtxt`; None where it has none.
        backend: what its files ask for; None where it has no file of a known name (an ensemble has none).
    """

    name: str
    path: Path
    versions: dict[int, Path]
    config: str | None
    backend: str | None

    def model_file(self, name: str) -> Path | None:
        """Give a file of the newest version, or None where it is not there."""
        if not self.versions:
            return None
        path = self.versions[max(self.versions)] / name
        return path if path.exists() else None


def find(root: Path, allow_python: bool) -> tuple[ModelDirectory, ...]:
    """Find the models under `root`.

    Raises:
        StartError: nothing that Triton can serve lies there, a link leads out of it, or it brings code
            without `serving.triton.allowPython`.
    """
    _check_tree(root, allow_python)
    names = {entry.name for entry in root.iterdir()}
    if modelconfig.FILE in names or _versions(root):
        return (_directory(root, ""),)
    if names & _KNOWN_FILES:
        return (ModelDirectory("", root, {1: root}, None, backend_of(names)),)
    if onnx := sorted(root.glob("*.onnx")):
        raise StartError(
            "ModelInvalid",
            f"the artifact holds {', '.join(p.name for p in onnx[:3])}: the file must be called model.onnx",
        )
    models = tuple(
        _directory(entry, entry.name)
        for entry in sorted(root.iterdir())
        if entry.is_dir() and ((entry / modelconfig.FILE).is_file() or _versions(entry))
    )
    if not models:
        raise StartError(
            "ModelMissing",
            f"the artifact holds neither a model file ({', '.join(sorted(_KNOWN_FILES))}) nor a Triton "
            f"repository; it holds {', '.join(sorted(names)[:10]) or 'nothing'}",
        )
    if len(models) > MOST_MODELS:
        raise StartError(
            "ModelInvalid", f"the repository has {len(models)} models, and {MOST_MODELS} are the most"
        )
    for model in models:
        if not _NAME.match(model.name):
            raise StartError(
                "ModelInvalid", f"{model.name!r} is no name of a model: use letters, digits, - _ and ."
            )
    return models


def _directory(path: Path, name: str) -> ModelDirectory:
    versions = _versions(path)
    held = {entry.name for entry in versions[max(versions)].iterdir()} if versions else set()
    return ModelDirectory(name, path, versions, _config(path), backend_of(held))


def _config(path: Path) -> str | None:
    file = path / modelconfig.FILE
    if not file.is_file():
        return None
    if file.stat().st_size > modelconfig.MOST_BYTES:
        raise StartError(
            "ConfigInvalid", f"{file.name} of {path.name} is larger than {modelconfig.MOST_BYTES} bytes"
        )
    try:
        return file.read_text()
    except UnicodeDecodeError:
        raise StartError("ConfigInvalid", f"{file.name} of {path.name} is no text") from None


def _versions(path: Path) -> dict[int, Path]:
    return {
        int(entry.name): entry
        for entry in path.iterdir()
        if entry.is_dir() and entry.name.isascii() and entry.name.isdigit() and int(entry.name) > 0
    }


def _check_tree(root: Path, allow_python: bool) -> None:
    """Refuse links that lead out of the artifact, and code that Triton would load from it."""
    if not root.is_dir():
        raise StartError("ModelMissing", f"there is no directory {root}: the model was not mounted")
    real = root.resolve()
    for path in _walk(root):
        if path.is_symlink() and not path.resolve().is_relative_to(real):
            raise StartError(
                "ModelInvalid",
                f"{path.relative_to(root)} is a link that leads out of the artifact: remove it",
            )
        # Triton prefers a backend that lies in the model's own directory over the image's.
        if not allow_python and (path.suffix == ".so" or path.name == "model.py"):
            raise StartError(
                "CodeNotAllowed",
                f"{path.relative_to(root)} is code that Triton would run: set serving.triton.allowPython: "
                "true if you trust the artifact, or remove the file",
            )


def _walk(root: Path) -> Iterator[Path]:
    for count, path in enumerate(root.rglob("*")):
        if count >= MOST_FILES:
            raise StartError("ModelInvalid", f"the artifact has more than {MOST_FILES} files")
        yield path
