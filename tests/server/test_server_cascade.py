"""A cascade: the small model answers what it is sure of."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.server import models
from tests.server.harness import Server, failed_start


def scorer(directory: Path, offset: float) -> Path:
    """x [N, 2] -> scores [N, 2] = x, label [N] = argmax + offset."""
    return models.save(
        directory,
        [
            helper.make_node("Identity", ["x"], ["scores"]),
            helper.make_node("ReduceMax", ["x"], ["high"], axes=[1], keepdims=0),
            helper.make_node("Add", ["high", "offset"], ["label"]),
        ],
        [("x", TensorProto.FLOAT, ["N", 2])],
        [("scores", TensorProto.FLOAT, ["N", 2]), ("label", TensorProto.FLOAT, ["N"])],
        {"offset": np.float32(offset)},
    )


def cascade(directory: Path, **changes: Any) -> Path:
    directory.mkdir()
    for role, offset in (("small", 0.0), ("large", 100.0)):
        shutil.move(scorer(directory / role, offset) / "model.onnx", directory / f"{role}.onnx")
    document = {"small": "small.onnx", "large": "large.onnx", "output": "scores", "threshold": 0.8} | changes
    (directory / "cascade.json").write_text(json.dumps(document))
    return directory


def test_unsure_rows_go_to_the_large_model(tmp_path: Path) -> None:
    with Server(cascade(tmp_path / "c")) as server:
        rows = [[0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]]
        tensor = {"name": "x", "shape": [4, 2], "datatype": "FP32", "data": rows}
        status, answer = server.infer({"inputs": [tensor], "outputs": [{"name": "label"}]})
        assert status == 200
        np.testing.assert_allclose(answer["outputs"][0]["data"], [0.9, 100.6, 0.9, 100.5], rtol=1e-5)
        assert server.metrics()['longshore_cascade_escalated_rows_total{model="c",version="1"}'] >= 2


def test_logits_are_made_probabilities(tmp_path: Path) -> None:
    with Server(cascade(tmp_path / "c", softmax=True)) as server:
        rows = [[5.0, 0.0], [0.5, 0.0]]
        tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": rows}
        _, answer = server.infer({"inputs": [tensor], "outputs": [{"name": "label"}]})
        np.testing.assert_allclose(answer["outputs"][0]["data"], [5.0, 100.5], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 2}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"small": "../x.onnx"}, "outside"),
        ({"large": "none.onnx"}, "missing"),
        ({"output": "nothing"}, "no output"),
        ({"output": "label"}, "class scores"),
        ({"more": 1}, "unknown field"),
        ({"softmax": "yes"}, "softmax"),
    ],
)
def test_a_bad_cascade_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    code, line = failed_start(cascade(tmp_path / "c", **changes))
    assert code == 65
    assert words in line
