"""Keras, SavedModel and TFLite models become ONNX that answers as TensorFlow does; code needs an opt-in."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.optimizer import tensorflow_sources

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="the extra `tensorflow` is not installed"
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tensorflow")
    done = subprocess.run(
        [sys.executable, tensorflow_sources.__file__, str(out)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def answer(converted: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((converted / "answers.json").read_text())[case]
    return found


def session(converted: Path, case: str) -> ort.InferenceSession:
    return ort.InferenceSession(str(converted / f"{case}.converted"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("case", "format_", "framework", "error"),
    [
        ("keras", "Keras", "Keras", 1e-5),
        ("hdf5", "Keras", "Keras", 1e-5),
        ("exported", "TensorFlow", "TensorFlow", 1e-5),
        ("float", "TFLite", "TFLite", 1e-5),
        ("int8", "TFLite", "TFLite", 0.05),
    ],
)
def test_one_network_answers_alike_in_every_form(
    converted: Path, case: str, format_: str, framework: str, error: float
) -> None:
    told = answer(converted, case)
    assert told.get("message") is None
    assert (told["format"], told["framework"], told["samples"]) == (format_, framework, 10)
    assert told["max_absolute_error"] < error
    model = session(converted, case)
    assert [(i.name, i.shape) for i in model.get_inputs()] == [("image", ["batch", 8, 8, 3])]
    scores, images = np.load(converted / "scores.npy"), np.load(converted / "images.npz")["image"]
    for rows in (1, 7):
        (found,) = model.run(None, {"image": images[:rows]})
        np.testing.assert_allclose(found, scores[:rows], atol=error)


def test_an_eight_bit_tflite_model_stays_in_eight_bits(converted: Path) -> None:
    graph = onnx.load(converted / "int8.converted").graph
    assert "QuantizeLinear" in {n.op_type for n in graph.node}
    assert any(i.data_type == onnx.TensorProto.INT8 for i in graph.initializer)


def test_several_inputs_and_outputs_keep_their_names_and_order(converted: Path) -> None:
    model = session(converted, "two")
    assert {i.name for i in model.get_inputs()} == {"left", "right"}
    assert [o.name for o in model.get_outputs()] == ["z_first", "a_second"]
    pair = np.load(converted / "pair.npz")
    model = session(converted, "pair")
    assert [i.name for i in model.get_inputs()] == ["left", "right"]
    assert [o.name for o in model.get_outputs()] == ["positive", "sum"]
    total, positive = model.run(["sum", "positive"], dict(pair))
    np.testing.assert_allclose(total, pair["left"].sum(1, keepdims=True) + pair["right"], rtol=1e-5)
    np.testing.assert_allclose(positive, np.maximum(pair["left"] - 0.5, 0), rtol=1e-6)


@pytest.mark.parametrize("case", ["table", "table-exported", "grouped"])
def test_what_a_network_refers_to_and_lets_be_compiled_becomes_part_of_the_graph(
    converted: Path, case: str
) -> None:
    told = answer(converted, case)
    assert told.get("message") is None
    assert told["max_absolute_error"] < 1e-5
    assert len(session(converted, case).get_inputs()) == 1


@pytest.mark.parametrize("case", ["free", "free-tflite"])
def test_sizes_are_found_for_a_model_that_takes_images_of_any_size(converted: Path, case: str) -> None:
    told = answer(converted, case)
    assert told.get("message") is None
    assert (told["samples"], told["disagreements"]) == (8, 0)


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("lambda", "PickleNotAllowed", "a Lambda layer, which is Python code"),
        ("reader", "PickleNotAllowed", "reaches out of itself (ReadFile)"),
        # What Keras exports still draws at random, as if it were training.
        ("augmented", "ConversionFailed", "without an ONNX counterpart (StatelessRandomUniformV2)"),
        ("weights", "InvalidModel", "weights without their network"),
        ("wrong", "DataShapeMismatch", "has shape (10, 7, 8, 3), the model takes (n, 8, 8, 3)"),
    ],
)
def test_what_cannot_be_converted_says_why(converted: Path, case: str, reason: str, words: str) -> None:
    told = answer(converted, case)
    assert told["reason"] == reason
    assert words in told["message"]
    assert not (converted / f"{case}.converted").exists()


def test_a_lambda_layer_is_converted_by_opt_in(converted: Path) -> None:
    assert answer(converted, "trusted")["max_absolute_error"] < 1e-5
