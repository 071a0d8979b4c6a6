"""Which backend runs which file, and which backends an image has."""

from collections.abc import Iterable
from pathlib import Path

from longshore_triton.errors import StartError

BUILT_IN = frozenset({"ensemble"})

FILES = {
    "onnxruntime": ("model.onnx",),
    "tensorflow": ("model.savedmodel", "model.graphdef"),
    "pytorch": ("model.pt", "model.pt2"),
    "openvino": ("model.xml",),
    "tensorrt": ("model.plan",),
    "python": ("model.py",),
    "fil": ("xgboost.json", "xgboost.ubj", "xgboost.model", "model.txt", "checkpoint.tl"),
}
"""Names that each backend looks for in a version's directory. Source: the backends' own documentation."""

PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
    "ensemble": "ensemble",
}
"""The older `platform` field, by the backend that it stands for."""


def installed(directory: Path) -> frozenset[str]:
    """List the backends of an image: folders with a shared library, or with a Python model of their own."""
    if not directory.is_dir():
        return frozenset()
    return frozenset(
        entry.name
        for entry in directory.iterdir()
        if (entry / f"libtriton_{entry.name}.so").is_file() or (entry / "model.py").is_file()
    )


def in_python(directory: Path) -> frozenset[str]:
    """List those of them that are models of Triton's Python backend."""
    return frozenset(name for name in installed(directory) if (directory / name / "model.py").is_file())


def backend_of(names: Iterable[str]) -> str | None:
    """Name the backend for a version directory that holds `names`; None where none of them is a model."""
    held = set(names)
    return next((backend for backend, files in FILES.items() if held & set(files)), None)


def require(backend: str, has: frozenset[str], model: str) -> None:
    """Check that the image has a backend.

    Raises:
        StartError: it has not; the message lists what it has.
    """
    if backend in BUILT_IN or backend in has:
        return
    raise StartError(
        "BackendMissing",
        f"model {model} needs the backend {backend}, and this image has {', '.join(sorted(has)) or 'none'}: "
        "name an image that has it in serving.triton.image, or bring the model in another format",
    )
