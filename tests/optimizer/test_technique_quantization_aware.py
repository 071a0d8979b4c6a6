"""Quantization-aware training: what eight bits cost is learned back, and answers are those of training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from longshore.api.optimize import Goal, TechniqueName
from longshore_optimizer.decide import Rules, Trial
from longshore_optimizer.statistics import Drop
from longshore_optimizer.techniques import calibration, fake_quantization, static_int8
from longshore_optimizer.techniques.base import ModelFacts, TargetFacts
from longshore_optimizer.techniques.prepare import prepare
from longshore_optimizer.techniques.registry import TECHNIQUES, propose
from longshore_optimizer.techniques.torch_graph import TorchGraph, answers
from longshore_optimizer.turns import planned
from onnx import numpy_helper

from tests.optimizer.conftest import mlp
from tests.optimizer.technique_bench import BASE, accuracy, digits_cnn, outputs, training_data, work

STATIC, AWARE = TechniqueName.STATIC_INT8, TechniqueName.QUANTIZATION_AWARE_TRAINING


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network twice with its channels in other scales: the same function, hard to quantize.

    In `outliers` three channels are a thousand times as large as the others, in `spread` all differ.
    """
    path = tmp_path_factory.mktemp("badly-scaled")
    file, _, evaluation = digits_cnn(path)
    spread = np.exp(np.random.default_rng(1).uniform(0, np.log(1000), 48))
    for name, factor in (("outliers", np.where(np.arange(48) < 3, 1000, 1)), ("spread", spread)):
        model = onnx.load(file)
        for tensor in model.graph.initializer:
            if tensor.name in ("w2", "b2", "wd"):
                column = factor.reshape(-1, *(1,) * (len(tensor.dims) - 1))
                values = numpy_helper.to_array(tensor)
                values = values / column if tensor.name == "wd" else values * column
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
        onnx.save(model, path / f"{name}.onnx")
        prepare(work(path / f"{name}.onnx", path / name, None))
    training_data(path / "training.npz", evaluation)
    return path


def built(technique: TechniqueName, folder: Path, name: str, out: Path, **parameters: Any) -> Path:
    model = folder / name / "model.onnx"
    job = work(model, out, folder / "calibration.npz", **(BASE | parameters))
    TECHNIQUES[technique].apply(replace(job, training=folder / "training.npz"))
    onnx.checker.check_model(onnx.load(job.out))
    return job.out


@pytest.mark.parametrize(
    ("name", "per_channel", "epochs", "lost"), [("outliers", True, 12, 0.1), ("spread", False, 5, 0.03)]
)
def test_what_eight_bits_cost_is_learned_back(
    folder: Path, tmp_path: Path, name: str, per_channel: bool, epochs: int, lost: float
) -> None:
    evaluation = folder / "evaluation.npz"
    original = accuracy(folder / f"{name}.onnx", evaluation)
    plain = built(STATIC, folder, name, tmp_path / "plain", perChannel=per_channel)
    aware = built(AWARE, folder, name, tmp_path / "aware", perChannel=per_channel, epochs=epochs)
    assert accuracy(plain, evaluation) < original - lost
    assert accuracy(aware, evaluation) > original - 0.02
    # The same graph with other numbers in it: the same size and speed.
    graphs = [onnx.load(p).graph for p in (plain, aware)]
    assert [n.op_type for n in graphs[0].node] == [n.op_type for n in graphs[1].node]


def test_training_starts_from_the_calibrator_that_fits(folder: Path, tmp_path: Path) -> None:
    evaluation = folder / "evaluation.npz"
    scores = {}
    for rule in ("minmax", "best"):
        aware = built(AWARE, folder, "outliers", tmp_path / rule, calibrator=rule, epochs=0)
        scores[rule] = accuracy(aware, evaluation)
    assert scores["best"] > scores["minmax"] + 0.1


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"perChannel": False},
        {"reduceRange": True},
        {"operators": "heavy"},
        {"activations": "int8"},
    ],
)
@pytest.mark.parametrize("network", ["digits", "perceptron"])
def test_the_runtime_answers_as_the_network_in_training(
    folder: Path, tmp_path: Path, network: str, changed: dict[str, Any]
) -> None:
    settings = BASE | changed
    if network == "digits":
        path, data = folder / "spread" / "model.onnx", folder / "calibration.npz"
        with np.load(folder / "evaluation.npz") as held:
            x = held["x"]
    else:
        path, data = mlp(tmp_path / "mlp.onnx"), tmp_path / "data.npz"
        x = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
        np.savez(data, x=x)
    model = onnx.load(path)
    seen = calibration.observe(path, data, tmp_path, 1)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    quantized = static_int8.quantize(quantized, calibration.ranges(seen, "minmax"), settings, [])
    onnx.save(quantized, tmp_path / "quantized.onnx")
    rounding = fake_quantization.roundings(quantized, model, reduced=bool(settings["reduceRange"]))
    target = answers(model.graph)
    with torch.no_grad():
        (given,) = TorchGraph(model, target, rounding)({"x": torch.from_numpy(x)}, [target])
        (exact,) = TorchGraph(model, target)({"x": torch.from_numpy(x)}, [target])
    expected = outputs(tmp_path / "quantized.onnx", {"x": x})
    # The runtime may round a sum to the neighbouring step, which is rare and small beside what 8 bits change.
    error = float(np.mean((given.numpy() - expected) ** 2))
    assert error < 0.05 * float(np.mean((exact.numpy() - expected) ** 2))
    assert np.mean(np.argmax(given.numpy(), 1) == np.argmax(expected, 1)) > 0.99


def test_it_is_tried_where_static_quantization_fails_the_gate_and_there_is_training_data() -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    rules = Rules(Goal.LATENCY, 0.01, "Accuracy", 0.95)

    def tried(upper: float, *, training: bool) -> set[str]:
        target = TargetFacts(calibration=True, training=training)
        proposals, skipped = propose([STATIC, AWARE], facts, target)
        assert (AWARE, "it needs training data: add optimize.training") in skipped or training
        trials: list[Trial] = []
        for proposal in planned(proposals, trials, rules):
            trials += [Trial(proposal, drop=Drop(0.0, upper))]
        return {t.proposal.name for t in trials if t.proposal.technique is AWARE}

    assert tried(0.3, training=True) == {"qat-int8", "qat-int8-heavy"}
    assert tried(0.005, training=True) == set()
    assert tried(0.3, training=False) == set()


def test_it_escalates_static_quantization_only_where_that_is_tried() -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    target = TargetFacts(calibration=True, training=True)
    both, _ = propose([STATIC, AWARE], facts, target)
    assert next(p.after for p in both if p.name == "qat-int8") == "static-int8"
    alone, _ = propose([AWARE], facts, target)
    assert [(p.name, p.after) for p in alone] == [("qat-int8", None), ("qat-int8-heavy", None)]


def test_gradients_pass_rounding_but_not_what_is_clipped() -> None:
    x = torch.tensor([-3.0, 0.1, 0.4, 200.0], requires_grad=True)
    graph = onnx.load_from_string(_rounded_identity())
    rounded = fake_quantization.roundings(graph, graph, reduced=False)["x"](x)
    rounded.sum().backward()
    assert rounded.tolist() == pytest.approx([0.0, 0.0, 0.5, 127.5])
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def _rounded_identity() -> bytes:
    return onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        one (float[4] x) => (float[4] y) <float s = {0.5}, uint8 z = {0}> {
            q = QuantizeLinear(x, s, z)
            y = DequantizeLinear(q, s, z)
        }
        """
    ).SerializeToString()
