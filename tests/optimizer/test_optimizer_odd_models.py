"""Models that trip optimizers: each is answered with a right model, never with a worse or a broken one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from longshore.api.optimize import Goal, Metric, TechniqueName
from longshore.artifact.manifest import Candidate, Manifest, Verdict
from longshore_optimizer.fetch.sink import file_sha256
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.pipeline import optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import cnn, labelled, mlp, save

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((120, 16)).astype(np.float32)


def run(
    model: Path, tmp_path: Path, data: Path | None, *techniques: TechniqueName, **changes: Any
) -> Manifest:
    request = Request(
        model=model,
        input_sha256=file_sha256(model),
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        calibration=data,
        evaluation=data,
        max_drop=0.1,
        goal=Goal.SIZE,
        techniques=techniques or (TechniqueName.AUTO,),
        p95_limit_ms=1000,
        seconds=200,
    )
    return optimize(replace(request, **changes), Reporter())


def candidate(manifest: Manifest, name: str) -> Candidate:
    return next(c for c in manifest.candidates if c.name == name)


def agrees(first: Path, second: Path, feeds: dict[str, Any]) -> float:
    answers = [
        ort.InferenceSession(str(p), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for p in (first, second)
    ]
    return float(np.mean(np.argmax(answers[0], -1) == np.argmax(answers[1], -1)))


def test_an_old_opset_is_upgraded_before_it_is_quantized_per_channel(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx", opset=7, ir_version=3)
    old = onnx.load(model)
    for weight in old.graph.initializer:
        old.graph.input.append(
            helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, list(weight.dims))
        )
    model.write_bytes(old.SerializeToString())
    data = labelled(tmp_path / "data.npz", model, {"x": ROWS})
    manifest = run(model, tmp_path, data, TechniqueName.STATIC_INT8, trials=1)
    assert candidate(manifest, "static-int8").verdict == Verdict.CHOSEN
    result = onnx.load(tmp_path / "out" / "model.onnx")
    assert next(o.version for o in result.opset_import if o.domain == "") >= 13
    assert [i.name for i in result.graph.input] == ["x"]
    assert agrees(model, tmp_path / "out" / "model.onnx", {"x": ROWS}) > 0.9


def test_a_quantized_model_is_left_alone(tmp_path: Path) -> None:
    x = numpy_helper.from_array(RNG.integers(-127, 127, (16, 4)).astype(np.int8), "w")
    scale = numpy_helper.from_array(np.array(0.01, np.float32), "s")
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s"], ["wf"]),
            helper.make_node("MatMul", ["x", "wf"], ["y"]),
        ],
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [x, scale],
    )
    save(tmp_path / "model.onnx", graph)
    data = labelled(tmp_path / "data.npz", tmp_path / "model.onnx", {"x": ROWS})
    manifest = run(tmp_path / "model.onnx", tmp_path, data)
    assert manifest.chosen == "original"
    for name in ("StaticInt8", "DynamicInt8"):
        assert "quantized already" in candidate(manifest, name).reason


def test_strings_and_trees_are_served_as_they_are(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    labels = (ROWS[:, 0] > 0).astype(np.int64)
    forest = RandomForestClassifier(10, random_state=0).fit(ROWS, labels)
    model = tmp_path / "model.onnx"
    model.write_bytes(to_onnx(forest, ROWS[:1], target_opset=17).SerializeToString())
    np.savez(tmp_path / "data.npz", X=ROWS, labels=labels)
    manifest = run(model, tmp_path, tmp_path / "data.npz")
    assert manifest.candidates[0].metric == 1.0
    # The exporter's default gives maps, which no inference protocol carries: they become a tensor.
    assert [(o.name, o.dtype) for o in manifest.output.outputs] == [
        ("output_label", "INT64"),
        ("output_probability", "FP32"),
    ]
    session = ort.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"X": ROWS})[1], forest.predict_proba(ROWS), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_size_is_kept_and_the_rest_is_padded(tmp_path: Path, batch: int) -> None:
    model = mlp(tmp_path / "model.onnx", batch=batch)
    feeds = [ROWS[i : i + batch] for i in range(0, 120, batch)]
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    scores = np.concatenate([session.run(None, {"x": f})[0] for f in feeds])
    np.savez(tmp_path / "data.npz", x=ROWS[:118], labels=np.argmax(scores, -1)[:118])
    manifest = run(model, tmp_path, tmp_path / "data.npz", TechniqueName.DYNAMIC_INT8, trials=1)
    assert manifest.candidates[0].metric == 1.0
    assert candidate(manifest, "dynamic-int8").metric is not None


def test_inputs_without_batch_axis_take_one_sample_at_a_time(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(RNG.standard_normal((16, 8)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "vector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
        [weight],
    )
    save(tmp_path / "model.onnx", graph)
    labels = np.argmax(ROWS @ numpy_helper.to_array(weight), -1)
    np.savez(tmp_path / "data.npz", x=ROWS, labels=labels)
    manifest = run(
        tmp_path / "model.onnx", tmp_path, tmp_path / "data.npz", TechniqueName.DYNAMIC_INT8, trials=1
    )
    assert manifest.candidates[0].metric == 1.0


def test_integer_inputs_and_embeddings(tmp_path: Path) -> None:
    table = numpy_helper.from_array(RNG.standard_normal((500, 16)).astype(np.float32), "table")
    weight = numpy_helper.from_array(RNG.standard_normal((16, 8)).astype(np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "i"], ["g"], name="g"),
            helper.make_node("Add", ["g", "x"], ["s"], name="s"),
            helper.make_node("MatMul", ["s", "w"], ["y"], name="m"),
        ],
        "lookup",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16]),
            helper.make_tensor_value_info("i", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [table, weight],
    )
    save(tmp_path / "model.onnx", graph)
    feeds = {"x": ROWS, "i": RNG.integers(0, 500, 120)}
    data = labelled(tmp_path / "data.npz", tmp_path / "model.onnx", feeds)
    manifest = run(tmp_path / "model.onnx", tmp_path, data, TechniqueName.DYNAMIC_INT8, trials=1)
    assert manifest.chosen == "dynamic-int8-embeddings"
    size = (tmp_path / "model.onnx").stat().st_size
    assert (tmp_path / "out" / "model.onnx").stat().st_size < 0.4 * size
    assert agrees(tmp_path / "model.onnx", tmp_path / "out" / "model.onnx", feeds) > 0.9


def test_shards_of_different_shapes_are_one_data_set(tmp_path: Path) -> None:
    model = cnn(tmp_path / "model.onnx", channels=8)
    dynamic = onnx.load(model)
    for axis in (2, 3):
        dynamic.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    model.write_bytes(dynamic.SerializeToString())
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, side in enumerate((16, 24, 40)):
        images = RNG.random((20, 3, side, side)).astype(np.float32)
        labelled(shards / f"{number}.npz", model, {"x": images})
    manifest = run(model, tmp_path, shards, TechniqueName.STATIC_INT8, trials=1, max_drop=1.0)
    assert manifest.candidates[0].metric == 1.0
    assert candidate(manifest, "static-int8").metric is not None


def test_a_model_without_data_is_rewritten_only_where_nothing_changes(tmp_path: Path) -> None:
    model = cnn(tmp_path / "model.onnx")
    manifest = run(model, tmp_path, None, calibration=None, evaluation=None)
    for row in manifest.candidates:
        if row.verdict in (Verdict.KEPT, Verdict.CHOSEN):
            assert row.technique in ("Original", "Graph")
        if row.verdict is Verdict.REFUSED:
            assert row.size_bytes is None, "what nothing could prove is not built"
            assert "add optimize.evaluation" in row.reason
    refused = {row.technique for row in manifest.candidates if row.verdict is Verdict.REFUSED}
    assert "DynamicInt8" in refused
    x = RNG.random((1, 3, 32, 32)).astype(np.float32)
    assert agrees(model, tmp_path / "out" / "model.onnx", {"x": x}) == 1.0


def test_layers_that_quantization_ruins_are_left_out(tmp_path: Path) -> None:
    # One input column is a thousand times larger than the others: 8 bits for the layer's input drown them.
    model = onnx.load(mlp(tmp_path / "model.onnx", hidden=64))
    weight = next(i for i in model.graph.initializer if i.name == "w1")
    values = numpy_helper.to_array(weight).copy()
    values[0] = 0.0
    weight.CopyFrom(numpy_helper.from_array(values, "w1"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    x = RNG.standard_normal((400, 16)).astype(np.float32)
    x[:, 0] *= 1000
    data = labelled(tmp_path / "data.npz", tmp_path / "model.onnx", {"x": x})
    manifest = run(tmp_path / "model.onnx", tmp_path, data, TechniqueName.STATIC_INT8, max_drop=0.05)
    assert candidate(manifest, "static-int8").verdict == Verdict.REFUSED
    rescued = [c for c in manifest.candidates if c.name.startswith("static-int8-without")]
    assert rescued
    assert any(c.verdict in (Verdict.KEPT, Verdict.CHOSEN) for c in rescued)


def test_agreement_needs_no_labels_and_reports_say_why(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=ROWS)
    manifest = run(
        model, tmp_path, tmp_path / "data.npz", TechniqueName.FLOAT16, metric=Metric.AGREEMENT, max_drop=0.05
    )
    assert manifest.candidates[0].metric == 1.0
    half = candidate(manifest, "float16-weights")
    assert 0.99 < (half.metric or 0) <= 1.0
    report = (tmp_path / "out" / "report.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    for row in manifest.candidates:
        assert row.name in report
        assert row.name in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_weights_stored_in_bytes_are_a_quarter_of_the_size_and_answer_alike(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx", hidden=512)
    data = labelled(tmp_path / "data.npz", model, {"x": ROWS})
    manifest = run(model, tmp_path, data, TechniqueName.WEIGHT_ONLY, trials=1)
    stored = candidate(manifest, "weight-int8-stored")
    assert (stored.size_bytes or 0) < 0.35 * model.stat().st_size
    assert (stored.metric or 0) > 0.95


def test_products_of_low_rank_become_smaller_and_answer_alike(tmp_path: Path) -> None:
    model = onnx.load(mlp(tmp_path / "model.onnx", inputs=128, hidden=256))
    weight = next(i for i in model.graph.initializer if i.name == "w1")
    thin = RNG.standard_normal((128, 4)) @ RNG.standard_normal((4, 256)) / 16
    weight.CopyFrom(numpy_helper.from_array(thin.astype(np.float32), "w1"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    x = RNG.standard_normal((120, 128)).astype(np.float32)
    data = labelled(tmp_path / "data.npz", tmp_path / "model.onnx", {"x": x})
    manifest = run(tmp_path / "model.onnx", tmp_path, data, TechniqueName.LOW_RANK, trials=1)
    factored = candidate(manifest, "low-rank-99.99")
    assert factored.verdict == Verdict.CHOSEN
    assert factored.metric == 1.0
    assert (factored.size_bytes or 0) < 0.2 * (tmp_path / "model.onnx").stat().st_size
    assert agrees(tmp_path / "model.onnx", tmp_path / "out" / "model.onnx", {"x": x}) == 1.0


def test_telemetry_is_off_wherever_sessions_are_opened() -> None:
    code = (
        "import onnxruntime as o; calls = []\n"
        "o.disable_telemetry_events = lambda: calls.append(1)\n"
        "import longshore_optimizer.measure.session\n"
        "assert calls == [1]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
