"""Everything that the serving block can ask of Triton, asked of a real one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.http as httpclient
from onnx import TensorProto, helper

from tests import saturation
from tests.realmodels import NAMES, rapidocr_model
from tests.server import models
from tests.triton.harness import Triton

ROWS = np.random.default_rng(5).standard_normal((3, 16)).astype(np.float32)


def ask(server: Triton, rows: Any = ROWS, name: str = "x", output: str = "y", **options: Any) -> Any:
    value = httpclient.InferInput(name, list(rows.shape), "FP32")
    value.set_data_from_numpy(rows)
    with httpclient.InferenceServerClient(server.address, network_timeout=60.0) as client:
        return client.infer(server.name, [value], **options).as_numpy(output)


def expected(model: Path, rows: Any = ROWS) -> Any:
    session = onnxruntime.InferenceSession(model / "model.onnx")
    return session.run(None, {session.get_inputs()[0].name: rows})[0]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    root = tmp_path_factory.mktemp("chain")
    models.save(
        root / "artifact" / "preprocess" / "1",
        [helper.make_node("Relu", ["raw"], ["x"])],
        [("raw", TensorProto.FLOAT, ["N", 16])],
        [("x", TensorProto.FLOAT, ["N", 16])],
    )
    models.mlp(root / "artifact" / "model" / "1")
    (root / "artifact" / "postprocess" / "1").mkdir(parents=True)
    (root / "artifact" / "postprocess" / "1" / "model.py").write_text(
        "import numpy\nimport triton_python_backend_utils as utils\n"
        "class TritonPythonModel:\n"
        "    def execute(self, requests):\n"
        "        def best(r):\n"
        "            scores = utils.get_input_tensor_by_name(r, 'y').as_numpy()\n"
        "            return utils.Tensor('best', scores.argmax(1, keepdims=True).astype(numpy.int64))\n"
        "        return [utils.InferenceResponse([best(r)]) for r in requests]\n"
    )
    (root / "artifact" / "postprocess" / "config.pbtxt").write_text(
        'backend: "python" max_batch_size: 64\n'
        'input { name: "y" data_type: TYPE_FP32 dims: 8 }\n'
        'output { name: "best" data_type: TYPE_INT64 dims: 1 }'
    )
    with Triton(root / "artifact", root, name="chain", allow_python=True) as server:
        yield server


def test_a_chain_of_onnx_and_python_answers_under_one_name(chain: Triton) -> None:
    rows = np.maximum(ROWS, 0)
    wanted = expected(chain.directory / "artifact/model/1", rows).argmax(1)
    assert list(ask(chain, ROWS, "raw", "best").ravel()) == list(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_real_models_answer_as_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    model = tmp_path / "artifact"
    model.mkdir()
    (model / "model.onnx").write_bytes(rapidocr_model(name).read_bytes())
    session = onnxruntime.InferenceSession(model / "model.onnx")
    pixels = np.random.default_rng(0).random((2, 3, 64, 192), dtype=np.float32)
    if "rec" in name or "cls" in name:
        pixels = pixels[:, :, :48]
    (source,), (output, *_) = session.get_inputs(), session.get_outputs()
    with Triton(model, tmp_path) as server:
        answer = ask(server, pixels, source.name, output.name)
    np.testing.assert_allclose(answer, session.run([output.name], {source.name: pixels})[0], atol=1e-5)


def test_sums_of_products_of_eight_bits_do_not_saturate(tmp_path: Path) -> None:
    model = tmp_path / "artifact"
    model.mkdir()
    onnx.save(saturation.model(saturation.FORMS[0]), model / "model.onnx")
    with Triton(model, tmp_path) as server:
        found = ask(server, saturation.ROWS)
    np.testing.assert_allclose(found, saturation.SUMS, atol=saturation.ERROR)


def test_every_version_that_the_policy_keeps_answers(tmp_path: Path) -> None:
    for version, seed in ((1, 1), (2, 2), (7, 7)):
        models.mlp(tmp_path / "artifact" / str(version), seed=seed)
    with Triton(tmp_path / "artifact", tmp_path, latest_versions=2) as server:
        for version in ("2", "7"):
            np.testing.assert_allclose(
                ask(server, model_version=version), expected(tmp_path / "artifact" / version), atol=1e-5
            )
        np.testing.assert_allclose(ask(server), expected(tmp_path / "artifact/7"), atol=1e-5)
        with pytest.raises(httpclient.InferenceServerException):
            ask(server, model_version="1")


def test_equal_requests_are_answered_from_the_cache(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "artifact")
    with Triton(model, tmp_path, cache_bytes=8 << 20) as server:
        first, second = ask(server), ask(server)
        with httpclient.InferenceServerClient(server.address) as client:
            statistics = client.get_inference_statistics(server.name)["model_stats"][0]["inference_stats"]
    np.testing.assert_array_equal(first, second)
    assert statistics["cache_hit"]["count"] == 1


def test_executions_may_share_resources(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "artifact")
    with Triton(model, tmp_path, instances=2, rate_resources={"licence": 1}, rate_priority=1) as server:
        np.testing.assert_allclose(ask(server), expected(model), atol=1e-5)


def test_sequences_reach_the_model_with_their_controls(tmp_path: Path) -> None:
    model = models.save(
        tmp_path / "artifact",
        [helper.make_node("Add", ["x", "START"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", 1]), ("START", TensorProto.FLOAT, ["N", 1])],
        [("y", TensorProto.FLOAT, ["N", 1])],
    )
    row = np.array([[5.0]], np.float32)
    with Triton(model, tmp_path, sequence={"start": "START"}) as server:
        answers = [
            float(ask(server, row, sequence_id=9, sequence_start=i == 0, sequence_end=i == 2)[0, 0])
            for i in range(3)
        ]
    assert answers == [6.0, 5.0, 5.0]


def test_weights_in_files_of_their_own_are_found(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "artifact", (16, 512, 8))
    whole = onnx.load(model / "model.onnx")
    wanted = expected(model)
    onnx.save(
        whole, model / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    with Triton(model, tmp_path) as server:
        np.testing.assert_allclose(ask(server), wanted, atol=1e-5)


def test_an_accelerator_that_the_image_lacks_is_an_error(tmp_path: Path) -> None:
    with Triton(models.mlp(tmp_path / "artifact"), tmp_path, wait=False, accelerator="OpenVINO") as server:
        assert server.process.wait(60) == 1
        assert "without accelerators" in server.report()["message"]


def test_with_a_delay_no_more_rows_are_joined_than_the_spec_says(tmp_path: Path) -> None:
    counts = models.save(
        tmp_path / "artifact",
        [
            helper.make_node("Mul", ["x", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "one"], ["ones"]),
            helper.make_node("ReduceSum", ["ones", "axis"], ["rows"], keepdims=1),
            helper.make_node("Add", ["nothing", "rows"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["N", 1])],
        [("y", TensorProto.FLOAT, ["N", 1])],
        {"zero": np.float32(0), "one": np.float32(1), "axis": np.array([0])},
    )
    with (
        Triton(counts, tmp_path, name="counts", max_batch_size=4, max_delay_us=200_000) as server,
        httpclient.InferenceServerClient(server.address, concurrency=12) as client,
    ):
        value = httpclient.InferInput("x", [1, 1], "FP32")
        value.set_data_from_numpy(np.ones((1, 1), np.float32))
        asked = [client.async_infer(server.name, [value]) for _ in range(12)]
        together = [float(one.get_result().as_numpy("y")[0, 0]) for one in asked]
        assert 1 < max(together) <= 4
        assert ask(server, np.ones((6, 1), np.float32)).tolist() == [[6.0]] * 6, "a larger one runs alone"
