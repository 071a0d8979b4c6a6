"""Reading and writing ONNX models inside a worker."""

import os
from pathlib import Path

import onnx
from onnx import TensorProto

EXTERNAL_ABOVE = 1_900_000_000
"""Bytes above which weights go to external data: protobuf messages end at 2 GiB."""


def load(path: Path) -> onnx.ModelProto:
    """Load a checked model with its external data."""
    return onnx.load(path, load_external_data=True)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, with external data beside it where one file cannot hold it; appears atomically."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    if model.ByteSize() > EXTERNAL_ABOVE:
        location = f"{path.stem}.data"
        (path.parent / location).unlink(missing_ok=True)
        onnx.save(model, partial, save_as_external_data=True, location=location, size_threshold=1024)
    else:
        partial.write_bytes(model.SerializeToString())
    os.replace(partial, path)


def default_opset(model: onnx.ModelProto) -> int:
    """Opset of the default domain."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def float_initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Weights in float32, by name."""
    return {i.name: i for i in model.graph.initializer if i.data_type == TensorProto.FLOAT}
