"""ONNX forms of operators that a TorchScript may hold and PyTorch's exporter of TorchScript does not know.

Attention and encoder layers that are traced without gradients become one fused operator each, and RMSNorm is
newer than that exporter. The formulas are those of PyTorch's `native/transformers` and `nn.RMSNorm`; float32,
batch first: activations have shape (batch, length, width).
"""

import math
from typing import Any

import torch
from torch.onnx import symbolic_helper, symbolic_opset13

OPSET = 17


def register() -> None:
    """Teach the exporter of this process."""
    for name, form in (
        ("aten::rms_norm", _rms_norm),
        ("aten::unflatten", _unflatten),
        ("aten::_native_multi_head_attention", _multi_head_attention),
        ("aten::_transformer_encoder_layer_fwd", _encoder_layer),
    ):
        torch.onnx.register_custom_op_symbolic(name, form, OPSET)


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, epsilon: Any) -> Any:
    axes = [
        -number for number in range(len(symbolic_helper._get_const(shape, "is", "normalized_shape")), 0, -1)
    ]
    given = symbolic_helper._get_const(epsilon, "f", "eps")
    floor = _floats(g, torch.finfo(torch.float32).eps if given is None else given)
    mean = g.op("ReduceMean", g.op("Mul", x, x), axes_i=axes, keepdims_i=1)
    normal = g.op("Div", x, g.op("Sqrt", g.op("Add", mean, floor)))
    return normal if symbolic_helper._is_none(weight) else g.op("Mul", normal, weight)


def _unflatten(g: Any, x: Any, axis: Any, sizes: Any) -> Any:
    """As PyTorch's own form, but what follows knows the number of axes: attention splits its input so."""
    split = symbolic_opset13.unflatten(g, x, axis, sizes)
    rank = symbolic_helper._get_tensor_rank(x)
    if rank is not None and symbolic_helper._is_packed_list(sizes):
        parts = len(symbolic_helper._unpack_list(sizes))
        split.setType(x.type().with_sizes([None] * (rank - 1 + parts)))
    return split


def _multi_head_attention(
    g: Any,
    query: Any,
    key: Any,
    value: Any,
    width: Any,
    heads: Any,
    qkv_weight: Any,
    qkv_bias: Any,
    out_weight: Any,
    out_bias: Any,
    mask: Any,
    need_weights: Any,
    average_weights: Any,
    mask_type: Any,
) -> Any:
    """Give the answer and, where asked for, the weights, (batch, length, length) or (batch, heads, ...)."""
    if query is not key or key is not value:
        return symbolic_helper._unimplemented("_native_multi_head_attention", "of three different tensors")
    sizes = (_number(width), _number(heads))
    mixed, weights = _attend(g, query, qkv_weight, qkv_bias, sizes, _hidden(g, mask, mask_type))
    answer = _linear(g, mixed, out_weight, out_bias)
    if not _number(need_weights):
        return answer, g.op("prim::Constant")
    if _number(average_weights):
        weights = g.op("ReduceMean", weights, axes_i=[1], keepdims_i=0)
    return answer, weights


def _encoder_layer(
    g: Any,
    source: Any,
    width: Any,
    heads: Any,
    qkv_weight: Any,
    qkv_bias: Any,
    out_weight: Any,
    out_bias: Any,
    use_gelu: Any,
    norm_first: Any,
    epsilon: Any,
    norm_weight_1: Any,
    norm_bias_1: Any,
    norm_weight_2: Any,
    norm_bias_2: Any,
    weight_1: Any,
    bias_1: Any,
    weight_2: Any,
    bias_2: Any,
    mask: Any,
    mask_type: Any,
) -> Any:
    def normal(x: Any, weight: Any, bias: Any) -> Any:
        floor = symbolic_helper._get_const(epsilon, "f", "eps")
        return g.op("LayerNormalization", x, weight, bias, axis_i=-1, epsilon_f=floor)

    def attention(x: Any) -> Any:
        sizes = (_number(width), _number(heads))
        mixed, _ = _attend(g, x, qkv_weight, qkv_bias, sizes, _hidden(g, mask, mask_type))
        return _linear(g, mixed, out_weight, out_bias)

    def feed_forward(x: Any) -> Any:
        inner = _linear(g, x, weight_1, bias_1)
        return _linear(g, _gelu(g, inner) if _number(use_gelu) else g.op("Relu", inner), weight_2, bias_2)

    if _number(norm_first):
        x = g.op("Add", source, attention(normal(source, norm_weight_1, norm_bias_1)))
        return g.op("Add", x, feed_forward(normal(x, norm_weight_2, norm_bias_2)))
    x = normal(g.op("Add", source, attention(source)), norm_weight_1, norm_bias_1)
    return normal(g.op("Add", x, feed_forward(x)), norm_weight_2, norm_bias_2)


def _attend(
    g: Any, x: Any, weight: Any, bias: Any, sizes: tuple[int, int], hidden: Any | None
) -> tuple[Any, Any]:
    """Give what the heads mix, (batch, length, width), and their weights, (batch, heads, length, length)."""
    width, heads = sizes
    thirds = _integers(g, [width] * 3)
    query, key, value = g.op("Split", _linear(g, x, weight, bias), thirds, axis_i=-1, outputs=3)
    split = _integers(g, [0, -1, heads, width // heads])
    query = g.op("Transpose", g.op("Reshape", query, split), perm_i=[0, 2, 1, 3])
    key = g.op("Transpose", g.op("Reshape", key, split), perm_i=[0, 2, 3, 1])
    value = g.op("Transpose", g.op("Reshape", value, split), perm_i=[0, 2, 1, 3])
    scores = g.op("Div", g.op("MatMul", query, key), _floats(g, math.sqrt(width // heads)))
    if hidden is not None:
        scores = g.op("Where", hidden, _floats(g, -math.inf), scores)
    weights = g.op("Softmax", scores, axis_i=-1)
    mixed = g.op("Transpose", g.op("MatMul", weights, value), perm_i=[0, 2, 1, 3])
    return g.op("Reshape", mixed, _integers(g, [0, -1, width])), weights


def _hidden(g: Any, mask: Any, mask_type: Any) -> Any | None:
    """What attention must not see, for scores of (batch, heads, length, length): what is not 0, as there."""
    if symbolic_helper._is_none(mask):
        return None
    hidden = g.op("Cast", mask, to_i=int(torch.onnx.TensorProtoDataType.BOOL))
    by_row = _number(mask_type) == 1
    return g.op("Unsqueeze", hidden, _integers(g, [1, 2])) if by_row else hidden


def _linear(g: Any, x: Any, weight: Any, bias: Any) -> Any:
    return g.op("Add", g.op("MatMul", x, g.op("Transpose", weight, perm_i=[1, 0])), bias)


def _gelu(g: Any, x: Any) -> Any:
    share = g.op("Add", g.op("Erf", g.op("Div", x, _floats(g, math.sqrt(2.0)))), _floats(g, 1.0))
    return g.op("Mul", g.op("Mul", x, share), _floats(g, 0.5))


def _number(value: Any) -> int:
    return int(symbolic_helper._get_const(value, "i", "size"))


def _integers(g: Any, values: list[int]) -> Any:
    return g.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))


def _floats(g: Any, value: float) -> Any:
    return g.op("Constant", value_t=torch.tensor(value, dtype=torch.float32))
