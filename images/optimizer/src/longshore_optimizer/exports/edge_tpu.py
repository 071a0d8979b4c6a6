"""What of a full-integer TFLite file runs on Coral's Edge TPU, by the operator list that Coral publishes.

The Edge TPU compiler needs every tensor in eight bits and every size constant, tensors of more than three
dimensions with size 1 in all but the innermost three, and operators of its list within their limitations. It
maps one stretch from the start of the graph: the first operator that does not fit, and all behind it, run on
the CPU. Source: sections "Model requirements" and "Supported operations" of "TensorFlow models on the Edge
TPU", https://coral.ai/docs/edgetpu/models-intro/
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_SOFTMAX_ELEMENTS = 16_000
_INNER = 3
_DEPTH_STEP = 4
_MOST_NAMED = 8


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: numpy dtype name, sizes (-1 where it is not constant), and its values if it is
    stored in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Any = None

    @property
    def constant(self) -> bool:
        """Whether the file holds its values."""
        return self.values is not None


@dataclass(frozen=True)
class Operator:
    """One operator by its name in TFLite's schema, with the options that limitations speak of."""

    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def report(path: Path) -> str:
    """Say in one sentence what of a TFLite file would run on the CPU."""
    return sentence(read(path))


def sentence(operators: Sequence[Operator]) -> str:
    """Name each operator that does not fit with the reason, and how much of the graph the CPU gets."""
    found = [(number, o, refusal(o)) for number, o in enumerate(operators)]
    refused = [(number, f"{o.kind} ({reason})") for number, o, reason in found if reason is not None]
    if not refused:
        return f"Edge TPU: all {len(operators)} operators are on Coral's list"
    first = refused[0][0]
    causes = list(dict.fromkeys(text for _, text in refused))
    more = f" and {len(causes) - _MOST_NAMED} more" if len(causes) > _MOST_NAMED else ""
    return (
        f"Edge TPU: not on Coral's list: {', '.join(causes[:_MOST_NAMED])}{more}; operators {first + 1} to "
        f"{len(operators)} of {len(operators)} fall back to the CPU"
    )


def refusal(operator: Operator) -> str | None:
    """Why the Edge TPU cannot run an operator, None where it can."""
    if operator.kind not in _LIMITS:
        return "no such operator there"
    for tensor in (*operator.inputs, *operator.outputs):
        if any(size < 0 for size in tensor.shape):
            return "a size is not constant"
        kernel = tensor.constant and operator.kind in _KERNELS
        if not kernel and any(size != 1 for size in tensor.shape[:-_INNER]):
            return f"a tensor has over {_INNER} dimensions larger than 1"
    if any(t.dtype not in ("int8", "uint8") for t in (*operator.inputs, *operator.outputs) if not t.constant):
        return "a tensor is not in eight bits"
    limit = _LIMITS[operator.kind]
    return limit(operator) if limit is not None else None


def _not_fused(operator: Operator) -> str | None:
    return "a fused activation" if operator.options.get("fusedActivationFunction") else None


def _concatenation(operator: Operator) -> str | None:
    constants = [t for t in operator.inputs if t.constant]
    if constants and (len(operator.inputs) != 2 or any(np.any(t.values) for t in constants)):
        return "joins constants other than zeros"
    return _not_fused(operator)


def _dilation(operator: Operator) -> str | None:
    same = operator.options.get("dilationWFactor", 1) == operator.options.get("dilationHFactor", 1)
    return None if same else "dilations differ in x and y"


def _fully_connected(operator: Operator) -> str | None:
    if operator.options.get("weightsFormat"):
        return "weights are not in the default format"
    if sum(size != 1 for size in operator.outputs[0].shape) > 1:
        return "its output has more than one dimension"
    return None


def _axes(operator: Operator) -> list[int]:
    rank = len(operator.inputs[0].shape)
    values = operator.inputs[1].values
    return [] if values is None else [int(a) % rank for a in np.atleast_1d(values)]


def _batch_untouched(operator: Operator) -> str | None:
    return "works on the batch dimension" if 0 in _axes(operator) else None


def _mean(operator: Operator) -> str | None:
    shape = operator.inputs[0].shape
    if len(shape) - 1 in _axes(operator) and shape[-1] % _DEPTH_STEP:
        return f"averages a last dimension that is no multiple of {_DEPTH_STEP}"
    return _batch_untouched(operator)


def _pack(operator: Operator) -> str | None:
    return "works on the batch dimension" if operator.options.get("axis") == 0 else None


def _pad(operator: Operator) -> str | None:
    values = operator.inputs[1].values
    if values is None:
        return "its padding is not constant"
    paddings = np.asarray(values).reshape(-1, 2)
    batched = len(paddings) == len(operator.inputs[0].shape) > _INNER
    return "works on the batch dimension" if batched and paddings[0].any() else None


def _prelu(operator: Operator) -> str | None:
    alpha = operator.inputs[1].shape
    return "alpha has more than one dimension" if any(size != 1 for size in alpha[:-1]) else None


def _softmax(operator: Operator) -> str | None:
    shape = operator.inputs[0].shape
    if sum(size != 1 for size in shape) > 1:
        return "its input has more than one dimension"
    if int(np.prod(shape)) > _SOFTMAX_ELEMENTS:
        return f"over {_SOFTMAX_ELEMENTS} elements"
    return None


def _split(operator: Operator) -> str | None:
    axis = operator.inputs[0].values if operator.kind == "SPLIT" else operator.inputs[2].values
    return "works on the batch dimension" if axis is not None and not np.any(axis) else None


def _squeeze(operator: Operator) -> str | None:
    shape = operator.inputs[0].shape
    large = [i for i, size in enumerate(shape) if size != 1]
    kept = shape[large[0] :] if large else ()
    return "takes away a dimension behind a larger one" if 1 in kept else None


def _strided_slice(operator: Operator) -> str | None:
    strides = operator.inputs[3].values
    if strides is None or np.any(np.asarray(strides) != 1):
        return "strides other than 1"
    if operator.options.get("ellipsisMask") or operator.options.get("newAxisMask"):
        return "an ellipsis or new axis mask"
    return None


_KERNELS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"})
"""Whose weights have four dimensions by nature."""

_LIMITS: dict[str, Callable[[Operator], str | None] | None] = {
    "ADD": None,
    "AVERAGE_POOL_2D": _not_fused,
    "CONCATENATION": _concatenation,
    "CONV_2D": _dilation,
    "DEPTHWISE_CONV_2D": _dilation,
    "EXPAND_DIMS": None,
    "FULLY_CONNECTED": _fully_connected,
    "L2_NORMALIZATION": None,
    "LOGISTIC": None,
    "MAXIMUM": None,
    "MAX_POOL_2D": _not_fused,
    "MEAN": _mean,
    "MINIMUM": None,
    "MUL": None,
    "PACK": _pack,
    "PAD": _pad,
    "PADV2": _pad,
    "PRELU": _prelu,
    "QUANTIZE": None,
    "REDUCE_MAX": _batch_untouched,
    "REDUCE_MIN": _batch_untouched,
    "RELU": None,
    "RELU6": None,
    "RELU_N1_TO_1": None,
    "RESHAPE": None,
    "RESIZE_BILINEAR": None,
    "RESIZE_NEAREST_NEIGHBOR": None,
    "RSQRT": None,
    "SLICE": None,
    "SOFTMAX": _softmax,
    "SPACE_TO_DEPTH": None,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "SQUARED_DIFFERENCE": None,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SUB": None,
    "SUM": _batch_untouched,
    "TANH": None,
    "TRANSPOSE": None,
    "TRANSPOSE_CONV": None,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": None,
}
"""Coral's list, with the limitations that a file shows. Not shown by a file, and so not judged: very large
reshapes, and resizes that the compiler leaves to the CPU for their precision."""


def read(path: Path) -> tuple[Operator, ...]:
    """Read the operators of a TFLite file's only graph.

    Raises:
        ValueError: it holds more than one graph, as control flow does.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    if len(model.subgraphs) != 1:
        raise ValueError(f"{path.name} has {len(model.subgraphs)} graphs, the Edge TPU takes one")
    kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    types = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    graph = model.subgraphs[0]
    tensors = [_tensor(t, model.buffers, types) for t in graph.tensors]
    result = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        # Files of before schema 3a have the code in a byte, which tops out at 127.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        options = vars(operator.builtinOptions) if operator.builtinOptions is not None else {}
        result.append(
            Operator(
                kinds.get(number, "CUSTOM"),
                tuple(tensors[i] for i in operator.inputs if i >= 0),
                tuple(tensors[i] for i in operator.outputs if i >= 0),
                options,
            )
        )
    return tuple(result)


def _tensor(tensor: Any, buffers: Sequence[Any], types: Mapping[int, str]) -> Tensor:
    dtype = types[tensor.type]
    free = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    shape = tuple(int(size) for size in (free if free is not None else ()))
    data = buffers[tensor.buffer].data
    values = None
    if data is not None and len(data):
        plain = {"int8", "uint8", "int16", "int32", "int64", "float32"}
        raw = np.asarray(data, dtype=np.uint8)
        values = raw.view(dtype) if dtype in plain else raw
    name = tensor.name.decode(errors="replace") if tensor.name else ""
    return Tensor(name, dtype, shape, values)
