"""Finds the model in what was fetched and checks it before any parser runs: format, outline, external
data."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from longshore.api.model import Format
from longshore.artifact.manifest import MODEL_NAME

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import content, protobuf
from longshore_optimizer.fetch.protobuf import External, Outline

_MODEL_SUFFIXES = (
    ".onnx", ".skops", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".pt2", ".safetensors", ".keras", ".h5",
    ".hdf5", ".tflite", ".txt", ".json", ".ubj", ".bst", ".model",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A model as it came in: where it lies, which container holds it, and the format that the kind names."""

    path: Path
    container: str
    format: Format


def locate(path: Path) -> Path:
    """Find the model in a directory; a file is the model itself.

    Raises:
        Problem: NotFound for an empty directory, AmbiguousModel where several files could be meant.
    """
    if path.is_file() or content.container(path) is not None:
        return path
    if (path / MODEL_NAME).is_file():
        return path / MODEL_NAME
    files = [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    for suffixes in ((".onnx",), _MODEL_SUFFIXES):
        matching = [p for p in files if p.suffix.lower() in suffixes]
        if len(matching) == 1:
            return matching[0]
        if len(matching) > 1:
            names = ", ".join(str(p.relative_to(path)) for p in matching[:5])
            raise Problem(
                Reason.AMBIGUOUS_MODEL,
                f"the source holds several models ({names}): name one file, or call one model.onnx",
            )
    if len(files) == 1:
        return files[0]
    for directory in sorted(p for p in path.rglob("*") if p.is_dir()):
        if content.container(directory) is not None:
            return directory
    what = "no file" if not files else "no model file: " + ", ".join(p.name for p in files[:5])
    raise Problem(
        Reason.NOT_FOUND, f"the source holds {what}; put model.onnx there, or name the file in the uri"
    )


def identify(path: Path, expected: Format | None = None) -> Source:
    """Tell the format from the content.

    Raises:
        Problem: UnknownFormat, UnsupportedFormat, or FormatMismatch where it is not the `expected` one.
    """
    container = content.container(path)
    if container in (content.GGUF, content.CATBOOST):
        raise Problem(
            Reason.UNSUPPORTED_FORMAT,
            f"{path.name} is a {container} model, which cannot be converted here: export it to ONNX",
        )
    if container is None or container not in content.FORMATS:
        raise Problem(
            Reason.UNKNOWN_FORMAT,
            f"{path.name} is no model in a known format ({', '.join(f.value for f in Format)}): "
            f"{content.describe(path)}",
        )
    found = content.FORMATS[container]
    if container == content.PICKLE and expected in (Format.LIGHTGBM, Format.XGBOOST, Format.PYTORCH):
        found = expected
    if expected is not None and expected != found:
        raise Problem(
            Reason.FORMAT_MISMATCH,
            f"model.format says {expected.value} but the content is {found.value}: correct or remove "
            "model.format",
        )
    return Source(path, container, found)


def check_onnx(path: Path) -> Outline:
    """Check an ONNX file's outline and that its external data lies beside it, whole.

    Raises:
        Problem: Truncated, InvalidModel, ExternalDataEscapes or ExternalDataMissing.
    """
    outline = protobuf.outline(path)
    for external in sorted(outline.external, key=lambda e: (e.location, e.offset)):
        _check_external(path.parent, external)
    return outline


def _check_external(directory: Path, external: External) -> None:
    name = external.location[:200]
    relative = PurePosixPath(external.location)
    inside = not (
        relative.is_absolute() or ".." in relative.parts or not relative.parts or "\\" in name or "\0" in name
    )
    target = directory.joinpath(*relative.parts) if inside else directory
    if not inside or not target.resolve().is_relative_to(directory.resolve()):
        raise Problem(
            Reason.EXTERNAL_DATA_ESCAPES,
            f"the model's external data {name!r} points outside its directory: save the model with its "
            "data beside it",
        )
    if not target.is_file():
        raise Problem(
            Reason.EXTERNAL_DATA_MISSING,
            f"the model's external data {name!r} is not there: upload it beside the model (a directory or "
            "an archive)",
        )
    size = target.stat().st_size
    end = external.offset + (external.length if external.length is not None else 0)
    if external.offset < 0 or end > size:
        raise Problem(
            Reason.TRUNCATED,
            f"the external data {name!r} has {size} of at least {end} bytes: upload it again",
        )


def external_files(outline: Outline) -> list[str]:
    """Names of the external data files, sorted."""
    return sorted({e.location for e in outline.external})


def copy_onnx(source: Path, destination: Path) -> Outline:
    """Copy a checked ONNX model with its external data into a directory, as `model.onnx`.

    Raises:
        Problem: as `check_onnx`.
    """
    outline = check_onnx(source)
    destination.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination / MODEL_NAME)
    for name in external_files(outline):
        target = destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, target)
    return outline


def onnx_size(path: Path) -> int:
    """Bytes of an ONNX model with its external data."""
    outline = protobuf.outline(path)
    return os.path.getsize(path) + sum((path.parent / n).stat().st_size for n in external_files(outline))


def onnx_sha256(path: Path) -> str:
    """SHA-256 of the model file, or over it and its external data in name order where there is any."""
    import hashlib

    from longshore_optimizer.fetch.sink import file_sha256

    names = external_files(protobuf.outline(path))
    if not names:
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in [path, *(path.parent / n for n in names)]:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
