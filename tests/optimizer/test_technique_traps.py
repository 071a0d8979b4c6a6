"""What goes wrong in the wild when models are quantized, each seen there: none of it may reach who serves."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from longshore.api.optimize import Goal, TechniqueName
from longshore.artifact.manifest import Manifest, Verdict
from longshore_optimizer.candidates import Bench
from longshore_optimizer.convert.tensorflow_operators import own_zero_points
from longshore_optimizer.data import TensorSpec
from longshore_optimizer.fetch.sink import file_sha256
from longshore_optimizer.measure import latency
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.process import WorkerProcess
from longshore_optimizer.measure.session import open_session
from longshore_optimizer.measure.workers import WORKER, Workers
from longshore_optimizer.pipeline import optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.techniques.base import ModelFacts, TargetFacts
from longshore_optimizer.techniques.build import Built
from longshore_optimizer.techniques.registry import TECHNIQUES, propose
from onnx import TensorProto, helper, numpy_helper

from tests import saturation
from tests.optimizer.conftest import cnn, labelled, mlp, save
from tests.optimizer.technique_bench import BASE, REDUCED, applied, outputs

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((120, 16)).astype(np.float32)
STATIC = TechniqueName.STATIC_INT8
DYNAMIC = {"operators": ["MatMul", "Gemm"], "perChannel": True, "reduceRange": REDUCED}


def optimized(model: Path, folder: Path, data: Path, *techniques: TechniqueName, **changes: Any) -> Manifest:
    request = Request(
        model=model,
        input_sha256=file_sha256(model),
        uri=None,
        work=folder / "work",
        out=folder / "out",
        cores=usable_cores(1),
        calibration=data,
        evaluation=data,
        max_drop=0.1,
        techniques=techniques,
        seconds=120,
        **changes,
    )
    return optimize(request, Reporter())


def error(exact: np.ndarray[Any, Any], given: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(given - exact) / np.linalg.norm(exact))


def test_convolutions_of_opset_11_are_upgraded_before_they_are_quantized_per_channel(tmp_path: Path) -> None:
    model = cnn(tmp_path / "model.onnx", opset=11, channels=16)
    x = RNG.random((20, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    result = applied(STATIC, model, tmp_path, tmp_path / "data.npz", **BASE)
    quantized = onnx.load(result)
    onnx.checker.check_model(quantized, full_check=True)
    axes = [a.i for n in quantized.graph.node for a in n.attribute if n.op_type == "DequantizeLinear"]
    assert 0 in axes
    assert error(outputs(model, {"x": x}), outputs(result, {"x": x})) < 0.05


def test_a_bias_that_layers_share_takes_no_other_tensors_name(tmp_path: Path) -> None:
    """The quantizer numbers its copies of a bias: `b` becomes `b0`, which a layer's output may be called."""
    weights = [RNG.standard_normal((8, 8)).astype(np.float32) for _ in range(3)]
    names = ["x", "b0", "b1", "y"]
    graph = helper.make_graph(
        [
            helper.make_node(
                "Gemm", [names[layer], f"w{layer}", "b"], [names[layer + 1]], name=f"layer{layer}"
            )
            for layer in range(3)
        ],
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weight, f"w{layer}") for layer, weight in enumerate(weights)]
        + [numpy_helper.from_array(RNG.standard_normal(8).astype(np.float32), "b")],
    )
    model = tmp_path / "model.onnx"
    save(model, graph)
    x = RNG.standard_normal((64, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    result = applied(STATIC, model, tmp_path, tmp_path / "data.npz", **BASE)
    assert error(outputs(model, {"x": x}), outputs(result, {"x": x})) < 0.05


def test_a_candidate_that_loads_but_fails_at_run_is_told_and_the_original_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp(tmp_path / "model.onnx")
    data = labelled(tmp_path / "data.npz", model, {"x": ROWS})
    build = Bench._build

    def broken(
        self: Bench, technique: str, parameters: dict[str, Any], source: Path, out: Path, *rest: Any
    ) -> Built:
        built = build(self, technique, parameters, source, out, *rest)
        if technique == "Prepare":
            return built
        candidate = onnx.load(out)
        answer = candidate.graph.output[0].name
        for node in candidate.graph.node:
            node.output[:] = ["whole" if o == answer else o for o in node.output]
        # Ten thousand columns are there to the type checker, not to the kernel.
        for name, values in (("row", [10_000]), ("far", [0])):
            candidate.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
        candidate.graph.node.append(helper.make_node("Gather", ["whole", "row"], ["some"], axis=1))
        candidate.graph.node.append(helper.make_node("Add", ["some", "whole"], [answer]))
        onnx.save(candidate, out)
        return built

    monkeypatch.setattr(Bench, "_build", broken)
    manifest = optimized(model, tmp_path, data, TechniqueName.DYNAMIC_INT8, trials=1)
    assert manifest.chosen == "original"
    (failed,) = [c for c in manifest.candidates if c.name == "dynamic-int8"]
    assert failed.verdict == Verdict.FAILED
    assert "cannot be built or run" in failed.reason
    assert (tmp_path / "out" / "model.onnx").read_bytes() == model.read_bytes()


def test_biases_that_32_bits_cannot_hold_do_not_spoil_the_answer(tmp_path: Path) -> None:
    weight = RNG.standard_normal((8, 3, 3, 3)).astype(np.float32)
    # Dead filters: their scale, and with it the scale of the bias, is next to nothing.
    weight[2:4] = 1e-9
    bias = np.array([1, -1, 5, -4.5, 0.5, 2, 0, 1], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")],
        "dead",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 6, 6])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    save(tmp_path / "model.onnx", graph)
    x = RNG.random((20, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    result = applied(STATIC, tmp_path / "model.onnx", tmp_path, tmp_path / "data.npz", **BASE)
    exact, given = (outputs(p, {"x": x}) for p in (tmp_path / "model.onnx", result))
    np.testing.assert_allclose(given[:, 2:4], exact[:, 2:4], atol=0.05)
    assert error(exact, given) < 0.03


def test_a_bias_with_a_leading_one_is_quantized_per_channel(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="gemm")],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [
            numpy_helper.from_array(RNG.standard_normal((16, 8)).astype(np.float32), "w"),
            numpy_helper.from_array(RNG.standard_normal((1, 8)).astype(np.float32), "b"),
        ],
    )
    save(tmp_path / "model.onnx", graph)
    np.savez(tmp_path / "data.npz", x=ROWS)
    result = applied(STATIC, tmp_path / "model.onnx", tmp_path, tmp_path / "data.npz", **BASE)
    assert error(*(outputs(p, {"x": ROWS}) for p in (tmp_path / "model.onnx", result))) < 0.03


def fused(path: Path) -> Path:
    """A graph as fusions leave it: an operator of the runtime's own domain between two products."""
    weights = {n: RNG.standard_normal((16, 16)).astype(np.float32) / 4 for n in ("w1", "w2")}
    weights["b"] = RNG.standard_normal(16).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
            helper.make_node("BiasGelu", ["h", "b"], ["g"], domain="com.microsoft", name="gelu"),
            helper.make_node("MatMul", ["g", "w2"], ["y"], name="second"),
        ],
        "fused",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(path, graph, **{"com.microsoft": 1})
    return path


@pytest.mark.parametrize("technique", [TechniqueName.DYNAMIC_INT8, STATIC])
def test_types_that_no_inference_knows_do_not_stop_quantization(
    tmp_path: Path, technique: TechniqueName
) -> None:
    model = fused(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=ROWS)
    parameters = BASE if technique is STATIC else DYNAMIC
    result = applied(technique, model, tmp_path, tmp_path / "data.npz", **parameters)
    counts = [n.op_type for n in onnx.load(result).graph.node]
    assert "MatMul" not in counts or counts.count("DequantizeLinear") >= 4
    assert error(outputs(model, {"x": ROWS}), outputs(result, {"x": ROWS})) < 0.05


def test_shape_inference_that_fails_does_not_stop_quantization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("Incomplete symbolic shape inference")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fails)
    model = mlp(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=ROWS)
    result = applied(STATIC, model, tmp_path, tmp_path / "data.npz", **BASE)
    assert error(outputs(model, {"x": ROWS}), outputs(result, {"x": ROWS})) < 0.05


def test_a_quantized_model_that_is_larger_than_its_source_is_not_chosen_for_size(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx", inputs=16, hidden=4, outputs=3)
    data = labelled(tmp_path / "data.npz", model, {"x": ROWS})
    manifest = optimized(model, tmp_path, data, TechniqueName.DYNAMIC_INT8, goal=Goal.SIZE, trials=1)
    (row,) = [c for c in manifest.candidates if c.name == "dynamic-int8"]
    assert (row.size_bytes or 0) > model.stat().st_size
    assert manifest.chosen == "original"


def test_models_are_timed_in_processes_of_their_own_whose_threads_do_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {name: mlp(tmp_path / f"{name}.onnx") for name in ("original", "other", "third")}
    session = open_session(models["original"], 2)
    assert session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"
    started = []

    class Counted(Workers):
        def start(self, module: str = WORKER) -> WorkerProcess:
            worker = super().start(module)
            started.append(worker.pid)
            return worker

    data = tmp_path / "data.npz"
    np.savez(data, x=np.ones((1, 16), np.float32))
    monkeypatch.setattr(latency, "ROUNDS", 2)
    with Counted(usable_cores(1)) as workers:
        measured = latency.time_models(models, "original", data, workers)
    assert len(set(started)) == len(models)
    assert all(isinstance(m, latency.Latency) for m in measured.values())


@pytest.mark.parametrize("technique", [STATIC, TechniqueName.DYNAMIC_INT8, TechniqueName.SMOOTH_QUANT])
def test_weights_have_seven_bits_where_products_of_eight_saturate(
    tmp_path: Path, technique: TechniqueName
) -> None:
    tensors = (TensorSpec("x", "float32", (None, 16)),)
    facts = ModelFacts(17, {"MatMul": 2}, 1 << 20, tensors, tensors)
    for vnni in (True, False):
        target = TargetFacts(vnni=vnni, calibration=True)
        proposals, _ = propose([technique], facts, target)
        assert proposals
        assert {p.parameters["reduceRange"] for p in proposals} == {not vnni}
    if technique is TechniqueName.SMOOTH_QUANT:
        return
    model = mlp(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=ROWS)
    parameters = TECHNIQUES[technique].space(facts, TargetFacts(vnni=False, calibration=True))[0].parameters
    result = applied(technique, model, tmp_path, tmp_path / "data.npz", **parameters)
    weights = [i for i in onnx.load(result).graph.initializer if i.data_type == TensorProto.INT8]
    largest = max(int(np.abs(numpy_helper.to_array(w).astype(int)).max()) for w in weights)
    assert 32 < largest <= 64


@pytest.mark.parametrize("form", saturation.FORMS)
def test_sums_of_products_of_eight_bits_are_measured_without_saturation(tmp_path: Path, form: str) -> None:
    onnx.save(saturation.model(form), tmp_path / "model.onnx")
    found = open_session(tmp_path / "model.onnx", 1).run(None, {"x": saturation.ROWS})[0]
    np.testing.assert_allclose(found, saturation.SUMS, atol=saturation.ERROR)


def test_a_zero_point_that_layers_share_does_not_keep_a_model_from_running(tmp_path: Path) -> None:
    model = saturation.model(saturation.SHARED)
    onnx.save(model, tmp_path / "model.onnx")
    assert len(open_session(tmp_path / "model.onnx", 1).run(None, {"x": saturation.ROWS})) == 2
    own_zero_points(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "own.onnx")
    for found in open_session(tmp_path / "own.onnx", 1).run(None, {"x": saturation.ROWS}):
        np.testing.assert_allclose(found, saturation.SUMS, atol=saturation.ERROR)


@pytest.mark.parametrize("calibrator", ["minmax", "percentile:99.9", "entropy", "mse"])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_every_calibrator_and_both_kinds_of_activations_answer_alike(
    digits: Path, tmp_path: Path, calibrator: str, activations: str
) -> None:
    model, data = digits / "digits.onnx", digits / "calibration.npz"
    parameters = BASE | {"calibrator": calibrator, "activations": activations}
    result = applied(STATIC, model, tmp_path, data, **parameters)
    with np.load(digits / "evaluation.npz") as loaded:
        x = loaded["X"]
    assert np.mean(outputs(model, {"X": x}).argmax(-1) == outputs(result, {"X": x}).argmax(-1)) > 0.97
    zeros = {
        i.name: numpy_helper.to_array(i)
        for i in onnx.load(result).graph.initializer
        if i.name.endswith("zero_point") and i.data_type == TensorProto.INT8
    }
    if activations == "int8":
        assert all((z == 0).all() for z in zeros.values())


@pytest.mark.parametrize(("calibrator", "better"), [("percentile:99.9", 0.7), ("entropy", 0.7)])
def test_calibrators_cut_a_rare_outlier_that_widens_the_range(
    tmp_path: Path, calibrator: str, better: float
) -> None:
    model = mlp(tmp_path / "model.onnx")
    x = RNG.standard_normal((400, 16)).astype(np.float32)
    x[0, 3] = 120.0
    np.savez(tmp_path / "data.npz", x=x)
    feeds = {"x": ROWS}
    exact = outputs(model, feeds)
    plain = applied(STATIC, model, tmp_path / "a", tmp_path / "data.npz", **BASE)
    cut = applied(STATIC, model, tmp_path / "b", tmp_path / "data.npz", **BASE | {"calibrator": calibrator})
    assert error(exact, outputs(cut, feeds)) < better * error(exact, outputs(plain, feeds))
