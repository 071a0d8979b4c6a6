"""Which converter takes which container; a converter and its framework are imported only when needed."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.fetch import content


@dataclass(frozen=True)
class Order:
    """What to convert: the model and its container, where to write ONNX, samples as `.npz` (None: made up).

    `allow_pickle` says whether code from the model may run; `factory` names the function that builds a
    network for bare weights, as `file.py:function` beside the model.
    """

    model: Path
    container: str
    out: Path
    samples: Path | None = None
    allow_pickle: bool = False
    factory: str | None = None


Converter = Callable[[Order], Converted]


@dataclass(frozen=True)
class Entry:
    """The module with the function `convert`, and the extra of this package that brings its framework."""

    module: str
    extra: str | None = None


CONVERTERS: dict[str, Entry] = {
    content.SKOPS: Entry("scikit_learn"),
    content.PICKLE: Entry("scikit_learn"),
    content.LIGHTGBM: Entry("trees", "trees"),
    content.XGBOOST: Entry("trees", "trees"),
    content.TORCH_EXPORT: Entry("pytorch", "pytorch"),
    content.TORCHSCRIPT: Entry("pytorch", "pytorch"),
    content.TORCH_PICKLE: Entry("pytorch", "pytorch"),
    content.SAFETENSORS: Entry("pytorch", "pytorch"),
    content.KERAS_ZIP: Entry("tensorflow_models", "tensorflow"),
    content.HDF5: Entry("tensorflow_models", "tensorflow"),
    content.SAVED_MODEL: Entry("tensorflow_models", "tensorflow"),
    content.TFLITE: Entry("tflite", "tensorflow"),
}

NEEDS_PICKLE = frozenset({content.PICKLE, content.TORCH_PICKLE})


def converter(entry: Entry) -> Converter:
    """Import a converter.

    Raises:
        ModuleNotFoundError: its framework is not installed.
    """
    module = importlib.import_module(f"longshore_optimizer.convert.{entry.module}")
    found: Converter = module.convert
    return found
