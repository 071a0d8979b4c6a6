"""Servers shared by the tests of one run: they hold no state that a test could spoil."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto

from tests.server import models
from tests.server.harness import Server


@pytest.fixture(scope="session")
def mlp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(models.mlp(tmp_path_factory.mktemp("models") / "mlp")) as server:
        yield server


@pytest.fixture(scope="session")
def two_inputs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(models.two_inputs(tmp_path_factory.mktemp("models") / "pair")) as server:
        yield server


@pytest.fixture(scope="session")
def strings_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("models") / "strings"
    with Server(models.identity(directory, TensorProto.STRING)) as server:
        yield server
