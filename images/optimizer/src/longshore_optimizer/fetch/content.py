"""Tells what a file is from its content; needs nothing but the standard library."""

import json
import pickletools
import zipfile
from pathlib import Path

from longshore.api.model import Format

from longshore_optimizer.fetch import protobuf
from longshore_optimizer.fetch.archive import is_tar, is_zip

SKOPS = "skops"
PICKLE = "pickle"
TORCH_PICKLE = "torch-pickle"
TORCHSCRIPT = "torchscript"
TORCH_EXPORT = "torch-export"
SAFETENSORS = "safetensors"
KERAS_ZIP = "keras-zip"
HDF5 = "hdf5"
SAVED_MODEL = "saved-model"
ONNX = "onnx"
TFLITE = "tflite"
LIGHTGBM = "lightgbm-text"
XGBOOST = "xgboost-json"
TRITON = "triton-repository"
NPZ = "npz"
GGUF = "gguf"
CATBOOST = "catboost"

FORMATS = {
    SKOPS: Format.SCIKIT_LEARN,
    PICKLE: Format.SCIKIT_LEARN,
    TORCH_PICKLE: Format.PYTORCH,
    TORCHSCRIPT: Format.PYTORCH,
    TORCH_EXPORT: Format.PYTORCH,
    SAFETENSORS: Format.PYTORCH,
    KERAS_ZIP: Format.KERAS,
    HDF5: Format.KERAS,
    SAVED_MODEL: Format.TENSORFLOW,
    ONNX: Format.ONNX,
    TFLITE: Format.TFLITE,
    LIGHTGBM: Format.LIGHTGBM,
    XGBOOST: Format.XGBOOST,
    TRITON: Format.TRITON_REPOSITORY,
}
"""The kind's format of each container that `container` tells apart."""

_COMPRESSED = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x78\x01",
    b"\x78\x9c",
    b"\x78\xda",
    b"\x04\x22\x4d\x18",
    b"\x5d\x00\x00",
)
_NAME_THE_MODEL = "check that the uri names the model itself"
_ARCHIVED_SUFFIXES = (
    ".onnx",
    ".pb",
    ".npz",
    ".skops",
    ".pt2",
    ".tflite",
    ".keras",
    ".h5",
    ".pt",
    ".pkl",
    ".joblib",
)


def is_archive(path: Path) -> bool:
    """Tell whether a file is a bundle to unpack, not a model or data file that happens to be a zip."""
    if is_zip(path):
        return _zip_container(path) is None and any(
            n.lower().endswith((*_ARCHIVED_SUFFIXES, "config.pbtxt")) for n in _zip_names(path)
        )
    with path.open("rb") as file:
        head = file.read(6)
    # A tar starts with a file name; checking formats with a magic number first keeps this cheap and exact.
    if head.startswith((b"\x80", b"\x89HDF", b"PK", b"CBM1", b"GGUF")):
        return False
    return is_tar(path)


def container(path: Path) -> str | None:
    """Name the container that a file or directory is, None where it is none that is known."""
    if path.is_dir():
        return _directory_container(path)
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PK\x03\x04"):
        return _zip_container(path)
    for magic, name in ((b"\x89HDF\r\n", HDF5), (b"GGUF", GGUF), (b"CBM1", CATBOOST), (b"binf", XGBOOST)):
        if head.startswith(magic):
            return name
    if head[4:8] == b"TFL3":
        return TFLITE
    if len(head) > 9 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < path.stat().st_size:
        return SAFETENSORS
    if head.startswith((b"tree\n", b"tree\r\n")) and b"version=" in head:
        return LIGHTGBM
    if (head.lstrip().startswith(b"{") or head.startswith(b"{L")) and b"learner" in head:
        return XGBOOST
    if protobuf.looks_like_onnx(path):
        return ONNX
    if _is_pickle(path, head):
        return PICKLE
    return None


def _is_pickle(path: Path, head: bytes) -> bool:
    if len(head) > 2 and head[0] == 0x80 and head[1] <= 5:
        return True
    if head.startswith(_COMPRESSED):
        # joblib's compressed dumps; the loader finds out whether a pickle is inside.
        return True
    if path.stat().st_size > 1 << 20 or not head or head[:1] not in b"(c]}lid":
        return False
    try:
        operations = [code.name for code, _, _ in pickletools.genops(path.read_bytes())]
    except (ValueError, UnicodeDecodeError, IndexError):
        return False
    return bool(operations) and operations[-1] == "STOP"


def _zip_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as bundle:
            return bundle.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _zip_container(path: Path) -> str | None:
    names = _zip_names(path)
    tails = {n.split("/", 1)[-1] for n in names}
    if names and all(n.endswith(".npy") for n in names):
        return NPZ
    if "metadata.json" in names and "config.json" in names:
        return KERAS_ZIP
    if "schema.json" in names:
        return SKOPS
    if "archive_format" in tails or "serialized_exported_program.json" in tails:
        return TORCH_EXPORT
    if "data.pkl" in tails:
        return TORCHSCRIPT if any(n.split("/", 1)[-1].startswith("code/") for n in names) else TORCH_PICKLE
    return None


def _directory_container(path: Path) -> str | None:
    if (path / "saved_model.pb").is_file():
        return SAVED_MODEL
    if (path / "config.pbtxt").is_file() and any(p.is_dir() and p.name.isdigit() for p in path.iterdir()):
        return TRITON
    return None


def describe(path: Path) -> str:
    """Say in a few words what something unknown looks like and what to do about it, for a message."""
    if path.is_dir():
        return "it is a directory without a model in it; put model.onnx there"
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty; upload the model again"
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return (
            "it is an HTML page, perhaps an error or login page of the server; open the uri without being "
            "logged in, and correct it so that it gives the file itself"
        )
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file; run `git lfs pull` and upload what it brings"
    try:
        json.loads(head)
        return f"it is a JSON text; {_NAME_THE_MODEL}"
    except ValueError:
        pass
    printable = sum(32 <= b < 127 or b in b"\r\n\t" for b in head)
    if printable > 0.95 * len(head):
        return f"it is a text file; {_NAME_THE_MODEL}"
    return f"its content is not recognised; {_NAME_THE_MODEL}, or export it to ONNX"
