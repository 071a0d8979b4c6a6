"""Triton's model configuration as the protocol buffer that it is, and its text form `config.pbtxt`.

Source: model_config.proto of https://github.com/triton-inference-server/common, which `tritonclient` carries
in compiled form.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import text_format

from longshore_triton.errors import StartError

FILE = "config.pbtxt"
MOST_BYTES = 1 << 20


def _load() -> ModuleType:
    # Importing the package `tritonclient.grpc` would load gRPC and NumPy too, half a second at every start.
    package = importlib.util.find_spec("tritonclient")
    assert package is not None  # a declared dependency
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("tritonclient.grpc.model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_PROTO = _load()

ModelConfig = Any
"""A `ModelConfig` message: its class is made while the program runs."""


def empty() -> ModelConfig:
    """Give a configuration in which nothing is set."""
    return _PROTO.ModelConfig()


def parse(text: str, where: str) -> ModelConfig:
    """Read a `config.pbtxt`.

    Args:
        text: the content.
        where: the file, for messages.

    Raises:
        StartError: the text is no model configuration; the message has line and column.
    """
    if len(text) > MOST_BYTES:
        raise StartError(
            "ConfigInvalid", f"{where} is larger than {MOST_BYTES} bytes: remove what is not configuration"
        )
    config = empty()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise StartError("ConfigInvalid", f"{where} cannot be read: {error}") from None
    return config


def render(config: ModelConfig) -> str:
    """Give the text form."""
    return str(text_format.MessageToString(config))


def type_of(dtype: str) -> int:
    """Give Triton's number of a data type such as FP32 or BYTES."""
    return int(_PROTO.DataType.Value("TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}"))


def dtype_of(number: int) -> str:
    """Give the protocol's name of Triton's data type."""
    name = str(_PROTO.DataType.Name(number)).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def kind(name: str) -> int:
    """Give the number of an instance kind: CPU, GPU, AUTO or MODEL."""
    return int(_PROTO.ModelInstanceGroup.Kind.Value(f"KIND_{name}"))


def control(name: str) -> int:
    """Give the number of a sequence control such as START or CORRID."""
    return int(_PROTO.ModelSequenceBatching.Control.Kind.Value(f"CONTROL_SEQUENCE_{name}"))
