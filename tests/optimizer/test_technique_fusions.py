"""Attention is found in the graphs of many exporters, and what is fused answers as before."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from longshore.api.optimize import TechniqueName
from longshore.artifact.manifest import Verdict
from longshore_optimizer import pipeline
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.techniques import attention, fusions
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.prepare import infer
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import mlp, save
from tests.optimizer.technique_bench import Feeds, applied, outputs

WIDTH, HEADS, SIZE = 32, 4, 8
RNG = np.random.default_rng(0)


class Net:
    """Builds a network node by node; names count up."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"{operator}.{name}", **attributes))
        return name

    def linear(self, source: str, width: int = WIDTH) -> str:
        weights = self.constant(RNG.standard_normal((WIDTH, width)) / 6)
        bias = self.constant(RNG.standard_normal(width) / 2)
        return self.add("Add", self.add("MatMul", source, weights), bias)

    def sizes(self, source: str, *last: int, dynamic: bool) -> str:
        """What a Reshape asks for: constants, or the first sizes as they are when it runs."""
        if not dynamic:
            return self.constant([0, 0, *last], np.int64)
        first = (self.add("Shape", source, start=i, end=i + 1) for i in range(2))
        return self.add("Concat", *first, *(self.constant([v], np.int64) for v in last), axis=0)

    def heads(self, source: str, permutation: list[int], *, dynamic: bool) -> str:
        split = self.add("Reshape", source, self.sizes(source, HEADS, SIZE, dynamic=dynamic))
        return self.add("Transpose", split, perm=permutation)

    def model(self, path: Path, last: str, *, opset: int = 17, outputs: tuple[str, ...] = ()) -> Path:
        def tensor(name: str, kind: int, *shape: Any) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, shape)

        read = set(chain.from_iterable(n.input for n in self.nodes))
        inputs = {
            "x": tensor("x", TensorProto.FLOAT, "batch", "tokens", WIDTH),
            "y": tensor("y", TensorProto.FLOAT, "batch", "others", WIDTH),
            "mask": tensor("mask", TensorProto.INT64, "batch", "tokens"),
            "bias": tensor("bias", TensorProto.FLOAT, "batch", 1, "tokens", "tokens"),
        }
        ends = [tensor(last, TensorProto.FLOAT, "batch", "tokens", WIDTH)]
        ends += [helper.make_empty_tensor_value_info(name) for name in outputs]
        taken = [v for k, v in inputs.items() if k in read]
        save(path, helper.make_graph(self.nodes, "transformer", taken, ends, self.weights), opset=opset)
        return path


def attended(
    net: Net,
    query: str = "x",
    key: str = "x",
    *,
    masked: str = "",
    scale: str = "div",
    turned: bool = False,
    dynamic: bool = False,
) -> str:
    """Attention in one of the ways in which exporters write it, between linear layers."""
    q = net.heads(net.linear(query), [0, 2, 1, 3], dynamic=dynamic)
    k, v = net.linear(key), net.heads(net.linear(key), [0, 2, 1, 3], dynamic=dynamic)
    if scale == "both":
        q = net.add("Mul", q, net.constant(SIZE**-0.25))
    if turned:
        k = net.heads(k, [0, 2, 1, 3], dynamic=dynamic)
        k = net.add("Transpose", k, perm=[0, 1, 3, 2])
    else:
        k = net.heads(k, [0, 2, 3, 1], dynamic=dynamic)
    if scale == "both":
        k = net.add("Mul", net.constant([SIZE**-0.25]), k)
    scores = net.add("MatMul", q, k)
    if scale == "div":
        scores = net.add("Div", scores, net.constant(SIZE**0.5))
    if masked == "keys":
        wide = net.add("Unsqueeze", net.add("Cast", "mask", to=1), net.constant([1, 2], np.int64))
        low = net.add("Mul", net.add("Sub", net.constant(1), wide), net.constant(-10_000))
        scores = net.add("Add", scores, low)
    elif masked == "scores":
        scores = net.add("Add", "bias", scores)
    elif masked == "row":
        row = net.add("Unsqueeze", net.add("Cast", "mask", to=1), net.constant([1, 2], np.int64))
        scores = net.add("Add", scores, row)
    mixed = net.add("Transpose", net.add("MatMul", net.add("Softmax", scores), v), perm=[0, 2, 1, 3])
    return net.linear(net.add("Reshape", mixed, net.sizes(mixed, WIDTH, dynamic=dynamic)))


def feeds(model: onnx.ModelProto, batch: int, tokens: int) -> Feeds:
    mask = (RNG.random((batch, tokens)) < 0.6).astype(np.int64)
    mask[:, 0] = 1
    every: Feeds = {
        "x": RNG.standard_normal((batch, tokens, WIDTH)).astype(np.float32),
        "y": RNG.standard_normal((batch, tokens + 3, WIDTH)).astype(np.float32),
        "mask": mask,
        "bias": RNG.standard_normal((batch, 1, tokens, tokens)).astype(np.float32),
    }
    return {i.name: every[i.name] for i in model.graph.input}


def fused(path: Path) -> tuple[onnx.ModelProto, int]:
    model = infer(onnx.load(path))
    return model, attention.fuse(model)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


FORMS = [
    ({}, "Attention"),
    ({"scale": "both"}, "Attention"),
    ({"scale": "none"}, "Attention"),
    ({"turned": True}, "Attention"),
    ({"turned": True, "scale": "both"}, "Attention"),
    ({"masked": "keys"}, "Attention"),
    ({"masked": "row"}, "MultiHeadAttention"),
    ({"masked": "scores"}, "MultiHeadAttention"),
    ({"key": "y"}, "MultiHeadAttention"),
]


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize(("form", "operator"), FORMS, ids=str)
def test_attention_becomes_one_operator_that_answers_alike(
    tmp_path: Path, form: dict[str, Any], operator: str, dynamic: bool
) -> None:
    net = Net()
    # With constant sizes, a Reshape by 0 takes those of its own input.
    path = net.model(tmp_path / "model.onnx", attended(net, dynamic=dynamic, **form))
    model, count = fused(path)
    assert count == 1
    assert kinds(model).count(operator) == 1
    assert not {"Softmax", "Transpose"}.intersection(kinds(model))
    onnx.save(model, tmp_path / "fused.onnx")
    for batch, tokens in ((1, 1), (2, 7), (3, 64)):
        values = feeds(model, batch, tokens)
        exact, given = outputs(path, values), outputs(tmp_path / "fused.onnx", values)
        np.testing.assert_allclose(given, exact, atol=2e-5)


def test_what_is_read_elsewhere_too_stays(tmp_path: Path) -> None:
    net = Net()
    last = attended(net)
    scores = next(n.output[0] for n in net.nodes if n.op_type == "Softmax")
    model, count = fused(net.model(tmp_path / "model.onnx", last, outputs=(scores,)))
    assert count == 0
    assert "Softmax" in kinds(model)


def test_softmax_of_old_opsets_is_left_alone(tmp_path: Path) -> None:
    net = Net()
    path = net.model(tmp_path / "model.onnx", attended(net), opset=12)
    assert fused(path)[1] == 0


def block(path: Path) -> Path:
    """One layer of a transformer: attention, normalizations, a feed-forward part with GELU."""
    net = Net()

    def normalized(first: str, second: str) -> str:
        scale, shift = net.constant(1 + RNG.random(WIDTH)), net.constant(RNG.random(WIDTH))
        return net.add("LayerNormalization", net.add("Add", first, second), scale, shift, axis=-1)

    first = normalized(attended(net, masked="keys"), "x")
    up = net.linear(first)
    erf = net.add("Erf", net.add("Div", up, net.constant(2**0.5)))
    active = net.add("Mul", net.add("Mul", up, net.add("Add", erf, net.constant(1))), net.constant(0.5))
    return net.model(path, normalized(net.linear(active), first))


def test_normalizations_and_activations_are_fused_too(tmp_path: Path) -> None:
    path = block(tmp_path / "model.onnx")
    result = applied(TechniqueName.GRAPH, path, tmp_path, fused=True)
    model = onnx.load(result)
    assert {"Attention", "SkipLayerNormalization", "BiasGelu"} <= set(kinds(model))
    values = feeds(model, 2, 9)
    np.testing.assert_allclose(outputs(result, values), outputs(path, values), atol=1e-4)


def test_a_fusion_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise KeyError("unknown tensor")

    monkeypatch.setattr("onnxruntime.transformers.optimizer.optimize_by_fusion", fails)
    model, count = fusions.fuse(infer(onnx.load(block(tmp_path / "model.onnx"))))
    assert count == kinds(model).count("Attention") == 1
    ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_model_without_a_transformer_has_nothing_to_fuse(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="no attention"):
        applied(TechniqueName.GRAPH, mlp(tmp_path / "model.onnx"), tmp_path, fused=True)


def test_the_fused_graph_is_a_lossless_candidate(tmp_path: Path) -> None:
    path = block(tmp_path / "model.onnx")
    rows = feeds(onnx.load(path), 24, 9)
    np.savez(tmp_path / "data.npz", **rows)
    request = Request(
        model=path,
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        calibration=tmp_path / "data.npz",
        techniques=(TechniqueName.GRAPH,),
        seconds=120.0,
    )
    manifest = pipeline.optimize(request, Reporter())
    (row,) = [c for c in manifest.candidates if c.name == "graph-fused"]
    assert row.verdict in (Verdict.CHOSEN, Verdict.KEPT), row.reason
