"""Exports for other runtimes: each is run and compared, and what cannot be written is said."""

import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from longshore.api.optimize import Export, TechniqueName
from longshore.artifact.manifest import Candidate, Verdict
from longshore_optimizer.data import TensorSpec
from longshore_optimizer.exports import edge_tpu
from longshore_optimizer.exports.run import Sources, make
from longshore_optimizer.exports.tensorrt import recipe
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.pipeline import optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from onnx import TensorProto, helper

from tests.optimizer.conftest import cnn, labelled, mlp, save

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((12, 3, 32, 32)).astype(np.float32)

# Looked for and not imported: it brings TensorFlow, and PyTorch's compiler ends a process that holds both.
needs_onnx2tf = pytest.mark.skipif(
    importlib.util.find_spec("onnx2tf") is None, reason="the extra `tensorflow` is not installed"
)


def made(
    export: Export, model: Path, data: Path | None, out: Path, *, original: Path | None = None
) -> Candidate:
    sources = Sources(model, original or model, data, data)
    with Workers(usable_cores(1)) as workers:
        (row,) = make((export,), sources, out, workers, 0)
    return row


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("exports")
    model = cnn(home / "model.onnx")
    data = labelled(home / "data.npz", model, {"x": IMAGES})
    optimize(
        Request(
            model=model,
            input_sha256="0" * 64,
            uri=None,
            work=home / "work",
            out=home / "out",
            cores=usable_cores(1),
            evaluation=data,
            techniques=(TechniqueName.GRAPH,),
            exports=(Export.ORT, Export.OPENVINO, Export.TENSORRT),
        ),
        Reporter(),
    )
    return home / "out"


def rows(artifact: Path) -> dict[str, str]:
    report = (artifact / "report.md").read_text()
    found = re.findall(r"^\| export-(\w+) \|(.*)\|$", report, re.MULTILINE)
    return dict(found)


def test_the_ort_file_runs_and_answers_as_the_served_model(artifact: Path) -> None:
    feeds = {"x": IMAGES[:3]}
    served = ort.InferenceSession(str(artifact / "model.onnx"), providers=["CPUExecutionProvider"])
    mobile = ort.InferenceSession(
        str(artifact / "exports" / "Ort" / "model.ort"), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(mobile.run(None, feeds)[0], served.run(None, feeds)[0], atol=1e-4)
    assert "agreement 1.000000" in rows(artifact)["Ort"]


def test_the_operators_that_a_minimal_build_needs_are_listed(artifact: Path) -> None:
    config = (artifact / "exports" / "Ort" / "required_operators_and_types.config").read_text()
    assert "# - model.ort" in config
    assert re.search(r"Gemm|MatMul", config)
    assert "float" in config
    assert "work" not in config


def test_openvino_runs_its_files_and_answers_as_the_served_model(artifact: Path) -> None:
    openvino = pytest.importorskip("openvino")
    served = ort.InferenceSession(str(artifact / "model.onnx"), providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(
        str(artifact / "exports" / "OpenVINO" / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found = compiled({"x": IMAGES[:1]})[0]
    np.testing.assert_allclose(found, served.run(None, {"x": IMAGES[:1]})[0], atol=1e-4)
    assert "openvino" in rows(artifact)["OpenVINO"]


@needs_onnx2tf
def test_tflite_takes_images_with_channels_last_and_answers_as_the_served_model(tmp_path: Path) -> None:
    model = onnx.load(cnn(tmp_path / "model.onnx", size=8))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "model.onnx")
    images = np.ascontiguousarray(IMAGES[:, :, :8, :8])
    np.savez(tmp_path / "data.npz", x=images)
    row = made(Export.TFLITE_FLOAT16, tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out")
    assert row.verdict is Verdict.KEPT, row.reason
    assert "run with ai-edge-litert" in row.reason
    written = tmp_path / "out" / "TFLiteFloat16" / "model.tflite"
    assert [p.name for p in written.parent.iterdir()] == ["model.tflite"]
    assert written.stat().st_size < 0.65 * (tmp_path / "model.onnx").stat().st_size
    np.save(tmp_path / "image.npy", images[:1].transpose(0, 2, 3, 1))
    # A process of its own: the interpreter warns of what it registers twice beside other libraries.
    code = (
        "import sys, numpy as np; from ai_edge_litert.interpreter import Interpreter\n"
        "i = Interpreter(sys.argv[1]); i.allocate_tensors()\n"
        "i.set_tensor(i.get_input_details()[0]['index'], np.load(sys.argv[2])); i.invoke()\n"
        "np.save(sys.argv[2], i.get_tensor(i.get_output_details()[0]['index']))"
    )
    subprocess.run([sys.executable, "-c", code, written, tmp_path / "image.npy"], check=True, timeout=120)
    served = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = served.run(None, {"x": images[:1]})
    np.testing.assert_allclose(np.load(tmp_path / "image.npy"), expected, rtol=0.02, atol=0.02)


def small_cnn(home: Path) -> tuple[Path, Path]:
    """A CNN on 8x8 images, with names that TensorFlow does not take, and 12 images for it."""
    model = cnn(home / "model.onnx", size=8)
    graph = onnx.load(model)
    for number, node in enumerate(graph.graph.node):
        node.name = f"{node.op_type}@{number}"
    onnx.save(graph, model)
    images = np.ascontiguousarray(IMAGES[:, :, :8, :8])
    np.savez(home / "data.npz", x=images)
    return model, home / "data.npz"


@needs_onnx2tf
def test_full_integer_tflite_is_calibrated_on_the_data_and_checked_for_the_edge_tpu(tmp_path: Path) -> None:
    model, data = small_cnn(tmp_path)
    row = made(Export.TFLITE_INT8, model, data, tmp_path / "out")
    assert row.verdict is Verdict.KEPT, row.reason
    assert "calibrated on 12 samples" in row.reason
    assert re.search(r"Edge TPU: all \d+ operators are on Coral's list", row.reason), row.reason
    written = tmp_path / "out" / "TFLiteInt8" / "model.tflite"
    assert [p.name for p in written.parent.iterdir()] == ["model.tflite"]
    assert written.stat().st_size < 0.4 * model.stat().st_size
    stored = {t.dtype for o in edge_tpu.read(written) for t in (*o.inputs, *o.outputs)}
    assert stored <= {"int8", "int32"}, stored
    assert "float32" not in stored


@needs_onnx2tf
def test_full_integer_tflite_without_calibration_data_says_what_to_add(tmp_path: Path) -> None:
    row = made(Export.TFLITE_INT8, mlp(tmp_path / "model.onnx"), None, tmp_path / "out")
    assert row.verdict is Verdict.SKIPPED
    assert "add optimize.calibration" in row.reason
    assert not (tmp_path / "out" / "TFLiteInt8").exists()


def test_tensorrt_gets_the_model_and_the_command_that_builds_its_engine(artifact: Path) -> None:
    told = rows(artifact)["TensorRT"]
    assert "Kept" in told
    assert "not compared here: an engine is built on the GPU that runs it" in told
    written = artifact / "exports" / "TensorRT"
    served = ort.InferenceSession(str(artifact / "model.onnx"), providers=["CPUExecutionProvider"])
    copied = ort.InferenceSession(str(written / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = {"x": IMAGES[:2]}
    np.testing.assert_allclose(copied.run(None, feeds)[0], served.run(None, feeds)[0], atol=1e-4)
    text = (written / "build-engine.txt").read_text()
    assert "--onnx=model.onnx" in text
    assert "--minShapes=x:1x3x32x32" in text
    assert "--optShapes=x:8x3x32x32" in text
    assert "--maxShapes=x:32x3x32x32" in text
    assert "--fp16" in text
    assert hashlib.sha256((written / "model.onnx").read_bytes()).hexdigest()[:12] in text


def test_an_engine_of_fixed_shapes_needs_none_in_the_command() -> None:
    fixed = TensorSpec("x", "float32", (1, 4), (1, 4))
    assert "Shapes=" not in recipe([fixed], {"x": (1, 4)}, "0" * 64)
    free = TensorSpec("ids:0", "int64", (None, None), ("batch", "length"))
    text = recipe([free], {"ids:0": (1, 12)}, "0" * 64)
    assert "--minShapes=\\'ids:0\\':1x1" in text
    assert "--maxShapes=\\'ids:0\\':32x12" in text


def test_an_export_whose_library_is_missing_says_which_image_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "openvino.py").write_text("raise ModuleNotFoundError('No module named openvino')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    row = made(Export.OPENVINO, mlp(tmp_path / "model.onnx"), None, tmp_path / "out")
    assert row.verdict is Verdict.SKIPPED
    assert "use an image with longshore-optimizer[openvino]" in row.reason
    assert not (tmp_path / "out" / "OpenVINO").exists()


def test_what_a_runtime_cannot_take_leaves_no_files(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])],
        "determinant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
    )
    save(tmp_path / "model.onnx", graph)
    row = made(Export.OPENVINO, tmp_path / "model.onnx", None, tmp_path)
    assert row.verdict is Verdict.FAILED
    assert "cannot be written or run" in row.reason
    assert not (tmp_path / "OpenVINO").exists()


def test_an_export_is_compared_without_data_too(tmp_path: Path) -> None:
    row = made(Export.ORT, mlp(tmp_path / "model.onnx"), None, tmp_path / "out")
    assert row.verdict is Verdict.KEPT
    assert "on 8 samples" in row.reason
    assert row.size_bytes
    assert row.p50_ms
