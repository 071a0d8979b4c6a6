"""Exports that PyTorch writes: ExecuTorch, TorchScript for its lite interpreter, Core ML."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from longshore.api.optimize import Export
from longshore_optimizer.exports.base import Exported
from longshore_optimizer.exports.run import WORKER
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.process import WorkerError, WorkerProcess
from longshore_optimizer.measure.workers import Workers
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.optimizer.conftest import cnn, mlp, save

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not here")


class Exporters:
    """One exporting process for all of these tests: importing PyTorch takes longer than they do."""

    def __init__(self, home: Path, worker: WorkerProcess) -> None:
        self.home = home
        self._worker = worker

    def export(self, export: Export, model: Path, original: Path, data: Path | None = None) -> Exported:
        return self._worker.ask(
            Exported,
            240,
            operation="export",
            export=export.value,
            model=str(model),
            original=str(original),
            data=str(data) if data else None,
            out=str(self.home / export.value),
            threads=1,
            seed=0,
        )


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporters]:
    home = tmp_path_factory.mktemp("mobile")
    with Workers(usable_cores(1)) as workers, workers.start(WORKER) as worker:
        yield Exporters(home, worker)


@pytest.fixture(scope="module")
def model(exporters: Exporters) -> Path:
    return cnn(exporters.home / "model.onnx", size=8, channels=8)


@pytest.fixture(scope="module")
def data(exporters: Exporters) -> Path:
    images = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
    np.savez(exporters.home / "data.npz", x=images)
    return exporters.home / "data.npz"


def test_the_lite_interpreter_answers_as_the_served_model(
    exporters: Exporters, model: Path, data: Path
) -> None:
    exported = exporters.export(Export.TORCHSCRIPT_LITE, model, model, data)
    assert exported.files == ("model.ptl",)
    assert exported.samples == 6
    assert exported.agreement is not None
    assert exported.agreement > 0.9999
    assert exported.max_absolute_error < 1e-4
    assert not exported.from_original


def test_executorch_answers_as_the_served_model(exporters: Exporters, model: Path, data: Path) -> None:
    if importlib.util.find_spec("executorch") is None:
        pytest.skip("ExecuTorch has no wheel here")
    exported = exporters.export(Export.EXECUTORCH, model, model, data)
    assert exported.files == ("model.pte",)
    assert exported.not_compared is None
    assert exported.max_absolute_error < 1e-4
    assert exported.runtime.startswith("executorch ")
    written = (exporters.home / "ExecuTorch" / "model.pte").read_bytes()
    assert b"XnnpackBackend" in written


def test_core_ml_is_written_and_told_as_not_compared(exporters: Exporters, model: Path) -> None:
    if importlib.util.find_spec("coremltools") is None or sys.platform == "darwin":
        pytest.skip("Core ML's tools have no wheel here, or Core ML itself is here")
    exported = exporters.export(Export.CORE_ML, model, model)
    assert "model.mlpackage/Manifest.json" in exported.files
    assert exported.not_compared is not None
    assert "Apple" in exported.not_compared
    assert exported.agreement is None


def test_a_quantized_served_model_is_exported_from_the_original(exporters: Exporters) -> None:
    original = mlp(exporters.home / "float.onnx")
    served = exporters.home / "int8.onnx"
    quantize_dynamic(original, served, weight_type=QuantType.QInt8)
    exported = exporters.export(Export.TORCHSCRIPT_LITE, served, original)
    assert exported.from_original
    assert exported.max_absolute_error < 1e-4


def test_an_operator_unknown_in_pytorch_is_named_with_a_way_out(exporters: Exporters) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])],
        "determinant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
    )
    odd = exporters.home / "odd.onnx"
    save(odd, graph)
    with pytest.raises(WorkerError, match=r"by this version: Det: use TFLite, Ort or OpenVINO"):
        exporters.export(Export.TORCHSCRIPT_LITE, odd, odd)
