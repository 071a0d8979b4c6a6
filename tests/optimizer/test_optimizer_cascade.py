"""A cascade answers with the small model where it is sure, and loses no more than was stated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from longshore.api.optimize import Goal, Metric, TechniqueName
from longshore.artifact.manifest import Verdict
from longshore_optimizer import cascade, pipeline
from longshore_optimizer.candidates import Bench, Subject
from longshore_optimizer.cascade import calibrate
from longshore_optimizer.data import read
from longshore_optimizer.decide import Latency, Rules, Trial
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.techniques.base import NotApplicableError, Proposal, Work
from longshore_optimizer.techniques.cascade_graph import join
from longshore_optimizer.verify import check_runnable
from longshore_server.artifact import locate
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import save

RNG = np.random.default_rng(0)
CLASSES = RNG.standard_normal((16, 4)).astype(np.float32) * 2
RULES = Rules(goal=Goal.LATENCY, max_drop=0.02, metric="Accuracy", confidence=0.95)


def linear(path: Path, weights: np.ndarray, opset: int = 17) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    save(path, graph, opset=opset)
    return path


def wide(path: Path, weights: np.ndarray, units: int = 8_000, opset: int = 17) -> Path:
    """The same function as `linear`, at a thousand times the work: relu(a) - relu(-a) is a."""
    up = RNG.standard_normal((16, units)).astype(np.float32)
    down = (np.linalg.pinv(up.astype(np.float64)) @ weights).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "up"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "down"], ["y"]),
        ],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.concatenate([up, -up], axis=1), "up"),
            numpy_helper.from_array(np.concatenate([down, -down]), "down"),
        ],
    )
    save(path, graph, opset=opset)
    return path


def answers(model: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["y"], {"x": x})[0]
    return found


def probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("opset", [17, 18], ids=["axes-as-attribute", "axes-as-input"])
def test_the_graph_runs_the_large_model_where_the_small_one_is_unsure(tmp_path: Path, opset: int) -> None:
    small = linear(tmp_path / "small.onnx", CLASSES + RNG.standard_normal((16, 4)), opset)
    large = wide(tmp_path / "large.onnx", CLASSES, 64, opset)
    x = RNG.standard_normal((100, 16)).astype(np.float32)
    parts = {"small": str(small), "large": str(large), "output": "y", "softmax": True, "threshold": 0.9}
    join(Work(large, tmp_path / "out.onnx", parts, None, tmp_path, 0, 1))
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)
    first, second = answers(small, x), answers(large, x)
    sure = probabilities(first).max(axis=1) >= 0.9
    assert 10 < sure.sum() < 90
    for row in range(100):
        found = answers(tmp_path / "out.onnx", x[row : row + 1])[0]
        np.testing.assert_allclose(found, first[row] if sure[row] else second[row], atol=1e-4)


def test_models_with_other_opsets_are_not_joined(tmp_path: Path) -> None:
    parts = {
        "small": str(linear(tmp_path / "small.onnx", CLASSES, 13)),
        "large": str(linear(tmp_path / "large.onnx", CLASSES, 17)),
        "output": "y", "softmax": True, "threshold": 0.9,
    }  # fmt: skip
    with pytest.raises(NotApplicableError, match="opsets"):
        join(Work(tmp_path / "large.onnx", tmp_path / "out.onnx", parts, None, tmp_path, 0, 1))


def test_the_threshold_is_the_lowest_that_holds_the_stated_loss() -> None:
    truth = RNG.standard_normal((4000, 4)) * 3
    small = truth + 0.7 * RNG.standard_normal((4000, 4))
    labels = truth.argmax(axis=1)
    shares = []
    for loss in (0.005, 0.02, 0.05):
        found = calibrate({"y": small}, {"y": truth}, labels, loss, 0.95)
        assert found is not None
        assert found.softmax
        kept = probabilities(small).max(axis=1) >= found.threshold
        mixed = np.where(kept, small.argmax(axis=1), labels)
        assert np.mean(mixed != labels) <= loss
        shares.append(found.share)
    # Who accepts more loss sends fewer rows to the large model.
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.3


def test_without_labels_the_large_model_is_the_truth() -> None:
    truth = RNG.standard_normal((2000, 4)) * 3
    found = calibrate({"y": truth * 1.01}, {"y": truth}, None, 0.01, 0.95)
    assert found is not None
    assert found.share == 0
    assert calibrate({"y": -truth}, {"y": truth}, None, 0.01, 0.95) is None
    assert calibrate({"y": truth[:20]}, {"y": truth[:20]}, None, 0.01, 0.95) is None


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    # Large enough that a busy machine cannot hide who is faster.
    large = wide(tmp_path / "model.onnx", CLASSES, 60_000)
    for name in ("calibration", "evaluation"):
        x = RNG.standard_normal((1500, 16)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, labels=(x @ CLASSES).argmax(axis=1))
    return Request(
        model=large,
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        calibration=tmp_path / "calibration.npz",
        evaluation=tmp_path / "evaluation.npz",
        max_drop=0.02,
        techniques=(TechniqueName.CASCADE,),
    )


def test_a_cascade_is_proved_timed_and_served(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Trial(Proposal("tiny", TechniqueName.LOW_RANK), latency=Latency((0.01,), (0.01,), 0.01, 0.01))

    def found(original: Trial, trials: object) -> list[Trial]:
        # Stands in for a technique that found a fast candidate which loses too much on its own.
        noise = np.random.default_rng(3).standard_normal((16, 4))
        linear(request_.work / "scratch" / "tiny" / "model.onnx", CLASSES + 0.2 * noise)
        return [small]

    monkeypatch.setattr(cascade, "smalls", found)
    manifest = pipeline.optimize(request_, Reporter())
    row = next(c for c in manifest.candidates if c.technique == "Cascade")
    assert row.verdict is Verdict.CHOSEN, row.reason
    assert row.drop_upper is not None
    assert row.drop_upper <= 0.02
    assert 0 < row.parameters["escalated"] < 0.9
    x = np.load(request_.evaluation)["x"][:50]  # type: ignore[arg-type]
    expected = (x @ CLASSES).argmax(axis=1)
    found_rows = [answers(request_.out / "model.onnx", x[i : i + 1])[0].argmax() for i in range(50)]
    assert np.mean(np.array(found_rows) == expected) >= 0.96
    served = locate(request_.out)
    assert served.cascade is not None
    assert served.cascade.threshold == pytest.approx(row.parameters["threshold"])
    assert served.cascade.small.parent.name == "small"


def test_what_a_cascade_needs_is_said(request_: Request) -> None:
    manifest = pipeline.optimize(request_, Reporter())
    row = next(c for c in manifest.candidates if c.technique == "Cascade")
    assert row.verdict is Verdict.SKIPPED
    assert "faster than the original" in row.reason
    for changed, words in (
        (replace(request_, calibration=None), "optimize.calibration"),
        (replace(request_, metric=Metric.AGREEMENT), "metric Accuracy"),
    ):
        reason = cascade.missing(
            changed.metric, evaluation=True, calibration=changed.calibration is not None, smalls=[]
        )
        assert reason is not None
        assert words in reason


def test_a_first_model_that_is_always_wrong_makes_no_cascade(request_: Request) -> None:
    outline = pipeline.modeldir.check_onnx(request_.model)
    with Workers(request_.cores) as workers:
        runnable = check_runnable(request_.model, outline, workers)
        given = (request_.calibration, request_.evaluation)
        data = [read(p, "calibration", runnable.inputs) for p in given if p]
        subject = Subject(request_.model, runnable, data[0], data[1])
        with Bench(request_, subject, lambda: 60.0, workers) as bench:
            original = bench.original()
            linear(bench.path("bad"), -CLASSES)
            trial = bench.cascade(Trial(Proposal("bad", TechniqueName.LOW_RANK)), original, RULES)
    assert trial.verdict is Verdict.SKIPPED
    assert "no threshold" in trial.reason
