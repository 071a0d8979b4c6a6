"""Runs the part of an ONNX graph that leads to one output in PyTorch, so that its weights can be trained.

Only what networks are commonly made of is known here; anything else is named, and techniques that train are
left out. Normalization runs with the statistics that it was trained with.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor
from torch.nn import functional

from longshore_optimizer.techniques import editing, normalization
from longshore_optimizer.techniques.base import NotApplicableError

Values = Sequence[Tensor | None]
Operator = Callable[[onnx.NodeProto, Values], Tensor]

_FIXED = {"BatchNormalization": (3, 4), "Clip": (1, 2), "Pow": (1,), "LayerNormalization": ()}


class TorchGraph(torch.nn.Module):  # type: ignore[misc]  # torch comes without types in the base image
    """Weights are parameters under the names of the initializers; `forward` gives any tensors by name."""

    def __init__(
        self,
        model: onnx.ModelProto,
        target: str | Sequence[str],
        rounding: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        """Prepare the nodes that `target` (one tensor or several) needs; `rounding` says by name what to make
        of a tensor.

        Raises:
            NotApplicableError: an operator that cannot be trained here.
        """
        super().__init__()
        self._nodes = needed(model.graph, *([target] if isinstance(target, str) else target))
        self._changes = dict(rounding or {})
        self._normalized: list[onnx.NodeProto] = []
        self.normalizations = torch.nn.ModuleList()
        unknown = sorted(
            {n.op_type for n in self._nodes if n.domain not in ("", "ai.onnx") or n.op_type not in _OPERATORS}
        )
        if unknown:
            raise NotApplicableError(f"operators that cannot be trained here: {', '.join(unknown)}")
        read = {name for node in self._nodes for name in node.input}
        fixed = {
            node.input[i] for node in self._nodes for i in _FIXED.get(node.op_type, ()) if i < len(node.input)
        }
        self._constants: dict[str, Tensor] = {}
        weights: dict[str, torch.nn.Parameter] = {}
        for tensor in model.graph.initializer:
            if tensor.name not in read:
                continue
            values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if tensor.data_type == TensorProto.FLOAT and values.numel() > 1 and tensor.name not in fixed:
                weights[tensor.name] = torch.nn.Parameter(values)
            else:
                self._constants[tensor.name] = values
        self._names = list(weights)
        self.weights = torch.nn.ParameterList(weights.values())

    def forward(self, feeds: dict[str, Tensor], wanted: Sequence[str]) -> list[Tensor]:
        """Give the tensors `wanted` for a batch."""
        values: dict[str, Tensor] = {
            **self._constants,
            **dict(zip(self._names, self.weights, strict=True)),
            **feeds,
        }
        for name in values.keys() & self._changes.keys():
            values[name] = self._changes[name](values[name])
        for node in self._nodes:
            inputs = [values[n] if n else None for n in node.input]
            result = _OPERATORS[node.op_type](node, inputs)
            change = self._changes.get(node.output[0])
            values[node.output[0]] = result if change is None else change(result)
        return [values[n] for n in wanted]

    def normalize(self, feeds: dict[str, Tensor]) -> None:
        """Put batch normalization behind the convolutions, with the statistics of some samples.

        It changes no answer until it is trained; `write` folds it into the weights.
        """
        self._normalized = normalization.places(self._nodes, self._names)
        names = [node.output[0] for node in self._normalized]
        with torch.no_grad():
            seen = self(feeds, names)
        self.normalizations.extend(normalization.Normalization(values) for values in seen)
        self.normalizations.train(self.training)
        self._changes |= dict(zip(names, self.normalizations, strict=True))

    @property
    def convolutional(self) -> bool:
        """Whether convolutions are what it spends its time on, and no normalization or attention needs more
        than 8 bits of mantissa."""
        kinds = {node.op_type for node in self._nodes}
        return "Conv" in kinds and not kinds & {"Softmax", "LayerNormalization", "Pow", "Erf", "Div"}

    def named(self) -> dict[str, torch.nn.Parameter]:
        """Trainable weights by the name of their initializer."""
        return dict(zip(self._names, self.weights, strict=True))

    def write(self, model: onnx.ModelProto) -> None:
        """Put the weights back into a model that has these initializers."""
        trained: dict[str, Tensor] = {k: v.detach() for k, v in self.named().items()}
        with torch.no_grad():
            for node, extra in zip(self._normalized, self.normalizations, strict=True):
                _, weight, bias = node.input
                trained[weight], trained[bias] = extra.folded(trained[weight], trained[bias])
        for tensor in model.graph.initializer:
            if tensor.name in trained:
                editing.set_constant(tensor, trained[tensor.name].numpy())


def needed(graph: onnx.GraphProto, *targets: str) -> list[onnx.NodeProto]:
    """Nodes on the way to these tensors, in order."""
    wanted, result = set(targets), []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted.update(n for n in node.input if n)
            result.append(node)
    return result[::-1]


def answers(graph: onnx.GraphProto) -> str:
    """The tensor to train on: the last float32 output, before a final Softmax where there is one.

    Raises:
        NotApplicableError: no output is float32.
    """
    floats = [o.name for o in graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT]
    if not floats:
        raise NotApplicableError("no output is float32")
    name: str = floats[-1]
    makers = {o: node for node in graph.node for o in node.output}
    while name in makers and makers[name].op_type in ("Softmax", "Identity", "Normalizer"):
        name = makers[name].input[0]
    return name


def _given(values: Values, index: int) -> Tensor:
    value = values[index]
    if value is None:
        raise ValueError(f"input {index} is missing")
    return value


def _optional(values: Values, index: int) -> Tensor | None:
    return values[index] if index < len(values) else None


def _numbers(values: Values, index: int) -> list[int] | None:
    value = _optional(values, index)
    return None if value is None else [int(v) for v in value.reshape(-1).tolist()]


def _convolution(node: onnx.NodeProto, values: Values) -> Tensor:
    x, weight = _given(values, 0), _given(values, 1)
    rank = weight.dim() - 2
    kernel = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    strides = editing.attribute(node, "strides", [1] * rank)
    dilations = editing.attribute(node, "dilations", [1] * rank)
    group = editing.attribute(node, "group", 1)
    pads = list(editing.attribute(node, "pads", [0] * (2 * rank)))
    explicit = editing.attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    if explicit and pads[:rank] == pads[rank:]:
        # By the kernel itself, which needs no copy of the tensor.
        return kernel(x, weight, _optional(values, 2), strides, pads[:rank], dilations, group)
    x = _padded(node, x, list(weight.shape[2:]), 0.0)
    return kernel(x, weight, _optional(values, 2), strides, 0, dilations, group)


def _padded(node: onnx.NodeProto, x: Tensor, kernel: list[int], value: float) -> Tensor:
    """Pad as ONNX does: begins of all axes, then ends; SAME_UPPER and SAME_LOWER by the input's size."""
    rank = x.dim() - 2
    mode = editing.attribute(node, "auto_pad", b"NOTSET").decode()
    pads = list(editing.attribute(node, "pads", [0] * (2 * rank)))
    if mode.startswith("SAME"):
        strides = editing.attribute(node, "strides", [1] * rank)
        dilations = editing.attribute(node, "dilations", [1] * rank)
        for axis in range(rank):
            size, reach = x.shape[2 + axis], (kernel[axis] - 1) * dilations[axis] + 1
            total = max((-(-size // strides[axis]) - 1) * strides[axis] + reach - size, 0)
            small, large = total // 2, total - total // 2
            pads[axis], pads[axis + rank] = (small, large) if mode == "SAME_UPPER" else (large, small)
    flat = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    return functional.pad(x, flat, value=value) if any(flat) else x


def _pool(node: onnx.NodeProto, values: Values) -> Tensor:
    x = _given(values, 0)
    kernel = list(editing.attribute(node, "kernel_shape"))
    strides = list(editing.attribute(node, "strides", [1] * len(kernel)))
    if editing.attribute(node, "ceil_mode", 0) or len(kernel) != 2:
        raise NotApplicableError(
            f"{node.op_type} with ceil_mode or other than two axes cannot be trained here"
        )
    if node.op_type == "MaxPool":
        return functional.max_pool2d(_padded(node, x, kernel, -3e38), kernel, strides)
    total = functional.avg_pool2d(_padded(node, x, kernel, 0.0), kernel, strides)
    if editing.attribute(node, "count_include_pad", 0):
        return total
    share = functional.avg_pool2d(_padded(node, torch.ones_like(x[:1, :1]), kernel, 0.0), kernel, strides)
    return total / share


def _product(node: onnx.NodeProto, values: Values) -> Tensor:
    a, b = _given(values, 0), _given(values, 1)
    a = a.T if editing.attribute(node, "transA", 0) else a
    b = b.T if editing.attribute(node, "transB", 0) else b
    result = editing.attribute(node, "alpha", 1.0) * (a @ b)
    bias = _optional(values, 2)
    return result if bias is None else result + editing.attribute(node, "beta", 1.0) * bias


def _reshape(node: onnx.NodeProto, values: Values) -> Tensor:
    x, target = _given(values, 0), _numbers(values, 1) or []
    sizes = [x.shape[i] if t == 0 else t for i, t in enumerate(target)]
    # Exporters often write the batch size of their sample; batches here are of any size.
    if sizes and sizes[0] == 1 and x.shape[0] != 1 and -1 not in sizes[1:]:
        sizes[0] = x.shape[0]
    return x.reshape(sizes)


def _flatten(node: onnx.NodeProto, values: Values) -> Tensor:
    axis = editing.attribute(node, "axis", 1)
    x = _given(values, 0)
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def _reduce(node: onnx.NodeProto, values: Values) -> Tensor:
    x = _given(values, 0)
    axes = editing.attribute(node, "axes") or _numbers(values, 1) or list(range(x.dim()))
    keep = bool(editing.attribute(node, "keepdims", 1))
    return x.mean(dim=list(axes), keepdim=keep) if node.op_type == "ReduceMean" else x.sum(list(axes), keep)


def _normalization(node: onnx.NodeProto, values: Values) -> Tensor:
    x, scale, shift, mean, variance = (_given(values, i) for i in range(5))
    return functional.batch_norm(
        x, mean, variance, scale, shift, False, 0.0, editing.attribute(node, "epsilon", 1e-5)
    )


def _layer_norm(node: onnx.NodeProto, values: Values) -> Tensor:
    x = _given(values, 0)
    axis = editing.attribute(node, "axis", -1) % x.dim()
    shape = list(x.shape[axis:])
    return functional.layer_norm(
        x, shape, _given(values, 1), _optional(values, 2), editing.attribute(node, "epsilon", 1e-5)
    )


def _clip(node: onnx.NodeProto, values: Values) -> Tensor:
    low, high = _optional(values, 1), _optional(values, 2)
    low = editing.attribute(node, "min") if low is None else low.item()
    high = editing.attribute(node, "max") if high is None else high.item()
    return torch.clamp(_given(values, 0), low, high)


def _axes(node: onnx.NodeProto, values: Values) -> list[int]:
    return sorted(editing.attribute(node, "axes") or _numbers(values, 1) or [])


def _unsqueeze(node: onnx.NodeProto, values: Values) -> Tensor:
    x = _given(values, 0)
    for axis in _axes(node, values):
        x = x.unsqueeze(axis)
    return x


def _squeeze(node: onnx.NodeProto, values: Values) -> Tensor:
    return torch.squeeze(_given(values, 0), tuple(_axes(node, values)))


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, values: function(_given(values, 0))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda node, values: function(_given(values, 0), _given(values, 1))


def _cast(node: onnx.NodeProto, values: Values) -> Tensor:
    kinds = {TensorProto.FLOAT: torch.float32, TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32}
    kind = editing.attribute(node, "to")
    if kind not in kinds:
        raise NotApplicableError("a Cast to another type than float32 and integers cannot be trained here")
    return _given(values, 0).to(kinds[kind])


def _leaky(node: onnx.NodeProto, values: Values) -> Tensor:
    return functional.leaky_relu(_given(values, 0), editing.attribute(node, "alpha", 0.01))


def _hard_sigmoid(node: onnx.NodeProto, values: Values) -> Tensor:
    alpha, beta = editing.attribute(node, "alpha", 0.2), editing.attribute(node, "beta", 0.5)
    return torch.clamp(alpha * _given(values, 0) + beta, 0.0, 1.0)


def _gather(node: onnx.NodeProto, values: Values) -> Tensor:
    x, places = _given(values, 0), _given(values, 1).long()
    axis = editing.attribute(node, "axis", 0) % x.dim()
    if axis == 0:
        return x[places]
    if places.dim() != 1:
        raise NotApplicableError(
            "a Gather by other than a list, behind the first axis, cannot be trained here"
        )
    return x.index_select(axis, places)


_OPERATORS: dict[str, Operator] = {
    "Conv": _convolution,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Gemm": _product,
    "MatMul": _binary(torch.matmul),
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(torch.div),
    "Pow": _binary(torch.pow),
    "Sqrt": _unary(torch.sqrt),
    "Erf": _unary(torch.erf),
    "Relu": _unary(functional.relu),
    "Sigmoid": _unary(torch.sigmoid),
    "Tanh": _unary(torch.tanh),
    "HardSwish": _unary(functional.hardswish),
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "Identity": _unary(lambda x: x),
    "Dropout": _unary(lambda x: x),
    "GlobalAveragePool": _unary(lambda x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True)),
    "Softmax": lambda node, values: torch.softmax(_given(values, 0), editing.attribute(node, "axis", -1)),
    "Concat": lambda node, values: torch.cat(
        [v for v in values if v is not None], dim=editing.attribute(node, "axis")
    ),
    "Transpose": lambda node, values: _given(values, 0).permute(*editing.attribute(node, "perm")),
    "Gather": _gather,
    "Clip": _clip,
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "BatchNormalization": _normalization,
    "LayerNormalization": _layer_norm,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
}
