"""Weights in 16 bits with the range of 32."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from longshore.api.optimize import Goal, TechniqueName
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, TargetFacts
from longshore_optimizer.techniques.registry import propose
from onnx import numpy_helper

from tests.optimizer.conftest import mlp
from tests.optimizer.technique_bench import applied, outputs

ROWS = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)


def scaled(path: Path, factor: float) -> Path:
    """A perceptron whose first weights are that much larger."""
    mlp(path, inputs=64, hidden=256)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), "w1"))
    onnx.save(model, path)
    return path


def test_weights_beyond_half_precision_take_half_the_bytes(tmp_path: Path) -> None:
    model = scaled(tmp_path / "model.onnx", 1e6)
    result = applied(TechniqueName.BFLOAT16, model, tmp_path / "b")
    assert result.stat().st_size < 0.55 * model.stat().st_size
    exact, given = outputs(model, {"x": ROWS}), outputs(result, {"x": ROWS})
    # Eight bits of mantissa, the hidden one included, round by 2 ** -9 of a weight at most.
    assert np.linalg.norm(given - exact) < 2**-8 * np.linalg.norm(exact)
    half = applied(TechniqueName.FLOAT16, model, tmp_path / "h", arithmetic="float32")
    assert half.stat().st_size > 0.9 * model.stat().st_size


def test_what_the_runtime_runs_is_float32(tmp_path: Path) -> None:
    result = applied(TechniqueName.BFLOAT16, scaled(tmp_path / "model.onnx", 1.0), tmp_path)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(str(result), options, providers=["CPUExecutionProvider"])
    assert "Cast" not in {n.op_type for n in onnx.load(tmp_path / "loaded.onnx").graph.node}


def test_a_model_of_small_weights_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="no weight is large enough"):
        applied(TechniqueName.BFLOAT16, mlp(tmp_path / "model.onnx", inputs=4, hidden=8, outputs=2), tmp_path)


@pytest.mark.parametrize("name", sorted(set(TechniqueName) - {TechniqueName.AUTO, TechniqueName.CASCADE}))
def test_every_technique_by_name_is_tried_or_told_of(name: TechniqueName) -> None:
    facts = ModelFacts(17, {"MatMul": 4}, 1 << 20, (), ())
    proposals, skipped = propose([name], facts, TargetFacts(goal=Goal.SIZE))
    assert {p.technique for p in proposals} | {s for s, _ in skipped} == {name}
