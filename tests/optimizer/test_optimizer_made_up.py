"""A model runs on inputs that are made from its own signature, whatever its free dimensions have to be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from longshore_optimizer import made_up
from longshore_optimizer.data import Dataset, batches, read
from longshore_optimizer.measure.session import tensor_specs
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

LONGSHORE = str(Path(sys.executable).parent / "longshore")
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def model(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """A graph whose output `y` is a float of any shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, dtype, shape) for n, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def stateful(path: Path) -> Path:
    """A recurrent step: rows on axis 0 of `x` and on axis 1 of `state`, and a scalar."""
    nodes = [
        helper.make_node("ReduceSum", ["state", "zero"], ["summed"], keepdims=0),
        helper.make_node("MatMul", ["summed", "w"], ["turned"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["turned", "mean"], ["added"]),
        helper.make_node("Cast", ["rate"], ["scale"], to=FLOAT),
        helper.make_node("Add", ["added", "scale"], ["scaled"]),
        # Both sides have to tell as many rows: one row against 32 would be broadcast otherwise.
        helper.make_node("Concat", ["scaled", "mean"], ["y"], axis=1),
    ]
    inputs = {"x": (FLOAT, ["rows", "length"]), "state": (FLOAT, [2, "rows", 8]), "rate": (INT64, [])}
    weights = {"zero": np.array([0], np.int64), "w": np.ones((8, 4), np.float32)}
    return model(path, nodes, inputs, weights)


def found(path: Path) -> Dataset:
    """What is found, read back; the model takes every sample of it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options)
    inputs = tensor_specs(session.get_inputs())
    made = made_up.find(inputs, lambda feeds: session.run(None, feeds), 0, lambda: 60.0)
    assert made is not None
    made_up.save(made, path.with_suffix(".npz"))
    again = read(path.with_suffix(".npz"), "evaluation", inputs)
    for batch in batches(again, inputs):
        session.run(None, batch.feeds)
    return again


def shapes(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    (shard,) = dataset.shards
    return {name: array.shape for name, array in shard.arrays.items()}


def test_a_state_whose_rows_are_no_leading_axis_is_one_sample(tmp_path: Path) -> None:
    assert shapes(found(stateful(tmp_path / "m.onnx"))) == {"x": (8, 32), "state": (8, 2, 1, 8), "rate": (8,)}


def test_dimensions_that_must_differ_get_sizes_of_their_own(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    weights = {"w": np.ones((4, 2, 9), np.float32)}
    path = model(tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["rows", "channels", "length"])}, weights)
    rows, channels, length = shapes(found(path))["x"]
    assert (rows, channels) == (8, 2)
    assert length >= 9


def test_a_leading_axis_that_is_no_batch_is_given_as_a_whole(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["w", "x"], ["y"])]
    path = model(tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["time", 3])}, {"w": np.ones((2, 64), np.float32)})
    assert shapes(found(path)) == {"x": (8, 64, 3)}


@pytest.mark.parametrize("fixed", [1, 2, 16])
def test_a_batch_that_all_inputs_fix_is_made_of_rows(tmp_path: Path, fixed: int) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    inputs = {"a": (FLOAT, [fixed, 3]), "b": (FLOAT, [fixed, 3])}
    rows = max(fixed, 8)
    assert shapes(found(model(tmp_path / "m.onnx", nodes, inputs))) == {"a": (rows, 3), "b": (rows, 3)}


def test_strings_and_indices_are_valid(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["row"]),
        helper.make_node(
            "LabelEncoder", ["text"], ["code"], domain="ai.onnx.ml", keys_strings=["a"], values_floats=[1.0]
        ),
        helper.make_node("Add", ["row", "code"], ["y"]),
    ]
    inputs = {"text": (STRING, ["rows", 1]), "index": (INT64, ["rows", 4])}
    path = model(tmp_path / "m.onnx", nodes, inputs, {"table": np.ones(1, np.float32)})
    (shard,) = found(path).shards
    assert set(shard.arrays["text"].ravel()) == {"a"}
    assert not shard.arrays["index"].any(), "a table of one row has no index but 0"


def test_an_attention_mask_hides_the_ends_of_rows_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        helper.make_node("Mul", ["mask", "x"], ["y"]),
    ]
    inputs = {"attention_mask": (INT64, ["rows", "length"]), "x": (FLOAT, ["rows", "length"])}
    (shard,) = found(model(tmp_path / "m.onnx", nodes, inputs)).shards
    mask = shard.arrays["attention_mask"]
    assert mask[:, 0].all(), "what attends to nothing is not defined"
    assert (np.diff(mask, axis=1) <= 0).all()
    assert len(set(mask.sum(1))) > 1


def test_nothing_is_found_for_a_model_that_takes_no_size_that_is_tried(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = model(tmp_path / "m.onnx", nodes, {"x": (FLOAT, [1, "n"])}, {"w": np.ones((1013, 2), np.float32)})
    session = ort.InferenceSession(path)
    tried = []

    def run(feeds: Any) -> None:
        tried.append(feeds["x"].shape)
        session.run(None, feeds)

    inputs = tensor_specs(session.get_inputs())
    assert made_up.find(inputs, run, 0, lambda: 60.0) is None
    assert {shape[1] for shape in tried} == set(made_up.SIZES)
    tried.clear()
    assert made_up.find(inputs, run, 0, lambda: 0.0) is None
    assert tried == []


def test_without_data_a_model_with_a_state_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [LONGSHORE, "optimize", str(stateful(tmp_path / "m.onnx")), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    (original,) = [c for c in manifest["candidates"] if c["name"] == "original"]
    assert original["p50Ms"] > 0
