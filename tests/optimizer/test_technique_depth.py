"""Depth: layers that give what they take may go, blocks with their branch; students learn without them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques import architecture_space, depth
from longshore_optimizer.techniques.architecture_space import AS_IS, GONE
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, TargetFacts
from longshore_optimizer.techniques.coupling import products
from longshore_optimizer.techniques.prepare import infer
from longshore_optimizer.techniques.registry import TECHNIQUES
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import mlp, save
from tests.optimizer.technique_bench import accuracy, digits_folder, outputs, work

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("depth"))


def blocks(path: Path) -> tuple[onnx.ModelProto, Weights]:
    """A convolution to 8 channels, a plain one, a residual block of two, a strided one, and a dense head."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "plain": (8, 8, 3, 3), "first": (8, 8, 3, 3), "second": (8, 8, 3, 3)}
    shapes |= {"strided": (8, 8, 3, 3), "head": (8, 4)}
    weights = {
        n: (rng.standard_normal(s) / np.prod(s[1:]) ** 0.5).astype(np.float32) for n, s in shapes.items()
    }

    def conv(source: str, name: str, stride: int = 1) -> onnx.NodeProto:
        return helper.make_node(
            "Conv", [source, name], [f"{name}.out"], name=name, pads=[1] * 4, strides=[stride] * 2
        )

    def relu(source: str) -> onnx.NodeProto:
        return helper.make_node("Relu", [source], [f"{source}.relu"], name=f"{source}.relu")

    nodes = [
        conv("x", "w0"),
        relu("w0.out"),
        conv("w0.out.relu", "plain"),
        relu("plain.out"),
        conv("plain.out.relu", "first"),
        relu("first.out"),
        conv("first.out.relu", "second"),
        helper.make_node("Add", ["second.out", "plain.out.relu"], ["sum"], name="block"),
        relu("sum"),
        conv("sum.relu", "strided", 2),
        helper.make_node("ReduceMean", ["strided.out"], ["flat"], axes=[2, 3], keepdims=0, name="mean"),
        helper.make_node("MatMul", ["flat", "head"], ["y"], name="head"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "blocks",
        [value("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(path, graph)
    return infer(onnx.load(path)), weights


def names(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node]


def test_layers_that_keep_the_shape_may_go_and_no_others(tmp_path: Path) -> None:
    model, _ = blocks(tmp_path / "model.onnx")
    assert depth.removable(model) == ("plain", "first", "second", "block")


def test_what_follows_reads_what_the_layer_read(tmp_path: Path) -> None:
    model, _ = blocks(tmp_path / "model.onnx")
    less = depth.without(model, {"plain"})
    onnx.checker.check_model(less, full_check=True)
    # The Relu behind it would say again what the one before has said.
    assert names(less) == [n for n in names(model) if n not in ("plain", "plain.out.relu")]
    assert "plain" not in {i.name for i in less.graph.initializer}
    assert names(model) != names(less), "the model itself stays"


def test_a_block_goes_with_its_branch(tmp_path: Path) -> None:
    model, weights = blocks(tmp_path / "model.onnx")
    less = depth.without(model, {"block", "first"})
    assert names(less) == ["w0", "w0.out.relu", "plain", "plain.out.relu", "strided", "mean", "head"]
    onnx.save(less, tmp_path / "less.onnx")
    silent = onnx.ModelProto()
    silent.CopyFrom(model)
    for tensor in silent.graph.initializer:
        if tensor.name == "second":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(weights["second"]), "second"))
    onnx.save(silent, tmp_path / "silent.onnx")
    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)
    given, expected = (outputs(tmp_path / f"{n}.onnx", {"x": x}) for n in ("less", "silent"))
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_that_became_narrower_on_one_side_stays(tmp_path: Path) -> None:
    model, weights = blocks(tmp_path / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "w0":
            tensor.CopyFrom(numpy_helper.from_array(weights["w0"][:6], "w0"))
        if tensor.name == "plain":
            tensor.CopyFrom(numpy_helper.from_array(weights["plain"][:, :6], "plain"))
    del model.graph.value_info[:]
    model = infer(model)
    assert "plain" not in depth.removable(model)
    assert names(depth.without(model, {"plain"})) == names(model)


def test_the_layer_that_changes_the_answers_least_goes_first(tmp_path: Path) -> None:
    model, _ = blocks(tmp_path / "model.onnx")
    identity = np.zeros((8, 8, 3, 3), np.float32)
    identity[np.arange(8), np.arange(8), 1, 1] = 1.0
    for tensor in model.graph.initializer:
        if tensor.name == "plain":
            tensor.CopyFrom(numpy_helper.from_array(identity, "plain"))
    x = np.random.default_rng(1).standard_normal((8, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    less = depth.shallower(model, 0.25, tmp_path / "data.npz", tmp_path, 1)
    assert names(less) == [n for n in names(model) if n not in ("plain", "plain.out.relu")]


def test_a_model_without_such_a_layer_has_no_shallow_student(tmp_path: Path) -> None:
    model = infer(onnx.load(mlp(tmp_path / "model.onnx", outputs=4)))
    np.savez(tmp_path / "data.npz", x=np.zeros((8, 16), np.float32))
    assert depth.removable(model) == ()
    with pytest.raises(NotApplicableError, match="no layer gives what it takes"):
        depth.shallower(model, 0.3, tmp_path / "data.npz", tmp_path, 1)


def test_a_shallow_student_has_fewer_layers_and_products_and_answers_as_well(
    folder: Path, tmp_path: Path
) -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    technique = TECHNIQUES[TechniqueName.DISTILLATION]
    target = TargetFacts(calibration=True, training=True)
    first = technique.space(facts, target)[0]
    assert first.name == "distilled-shallow-75-int8", "the fastest comes first"
    model, evaluation = folder / "prepared" / "model.onnx", folder / "evaluation.npz"
    parameters = first.parameters | {"int8": False, "share": 0.6, "epochs": 30}
    job = work(model, tmp_path, folder / "calibration.npz", **parameters)
    job = replace(job, out=tmp_path / "student.onnx", training=folder / "training.npz")
    technique.apply(job)
    student, original = infer(onnx.load(job.out)), onnx.load(model)
    weighed = [sum(n.op_type == "Conv" for n in m.graph.node) for m in (student, original)]
    assert weighed[0] < weighed[1]
    assert products(student) <= 0.4 * products(original)
    assert accuracy(job.out, evaluation) >= accuracy(model, evaluation) - 0.02


def test_a_search_may_do_without_a_layer(tmp_path: Path) -> None:
    model, _ = blocks(tmp_path / "model.onnx")
    x = np.random.default_rng(1).standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    space = architecture_space.find(model, tmp_path / "data.npz", tmp_path, 1)
    assert space.choices["layer:block"] == (AS_IS, GONE)
    assert space.choices["layer:plain"][0] == AS_IS
    assert GONE in space.choices["layer:plain"]
    without = {n: GONE for n, options in space.choices.items() if GONE in options}
    assert space.original | without in space.starts()
    built = architecture_space.build(
        space, space.original | {"layer:block": GONE}, tmp_path / "data.npz", tmp_path, 1
    )
    onnx.checker.check_model(built, full_check=True)
    assert not {"first", "second", "block"} & set(names(built))
