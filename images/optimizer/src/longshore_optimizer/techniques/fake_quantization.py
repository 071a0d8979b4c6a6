"""Rounds tensors in training as a QDQ graph does; gradients pass straight through (Jacob et al. 2018).

Where a graph rounds, and by which scales, is read from the graph that the quantizer writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from longshore_optimizer.techniques import editing, onnxfile

Rounding = Callable[[Tensor], Tensor]
"""Gives a float32 tensor as it is after quantization and back."""

_LEAST_SCALE = 1e-12
_RAISED = 1.001
"""A scale this much above what the weights need was raised for the bias, which is kept in 32 bits."""


@dataclass(frozen=True)
class _Grid:
    """Integers from `low` to `high`, on `axis` one scale a channel, one for all where it is None."""

    low: int
    high: int
    axis: int | None


def roundings(quantized: onnx.ModelProto, model: onnx.ModelProto, *, reduced: bool) -> dict[str, Rounding]:
    """Give what happens to each tensor of `model` in its QDQ form; `reduced`: weights have 7 bits.

    Biases stay as they are: 32 bits lose nothing that counts.
    """
    constants = {i.name: i for i in quantized.graph.initializer}
    weights = onnxfile.float_initializers(model)
    result: dict[str, Rounding] = {}
    for node in quantized.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in constants:
            continue
        scale = numpy_helper.to_array(constants[node.input[1]])
        if node.op_type == "QuantizeLinear":
            zero = numpy_helper.to_array(constants[node.input[2]])
            if scale.size == 1 and zero.dtype in (np.uint8, np.int8):
                bounds = np.iinfo(zero.dtype)
                name = node.input[0].removesuffix("_QuantizeLinear_Input")
                result[name] = partial(
                    torch.fake_quantize_per_tensor_affine,
                    scale=float(scale.item()),
                    zero_point=int(zero.item()),
                    quant_min=int(bounds.min),
                    quant_max=int(bounds.max),
                )
        elif node.input[0] in constants:
            name = node.input[0].removesuffix("_quantized")
            integers = numpy_helper.to_array(constants[node.input[0]])
            if name not in weights or integers.dtype not in (np.uint8, np.int8):
                continue
            axis = editing.attribute(node, "axis", 1) if scale.size > 1 else None
            values = numpy_helper.to_array(weights[name])
            result[name] = _of_weight(values, scale, axis, integers.dtype, reduced=reduced)
    return result


def _of_weight(
    values: NDArray[np.float32],
    scale: NDArray[np.float32],
    axis: int | None,
    dtype: np.dtype[Any],
    *,
    reduced: bool,
) -> Rounding:
    if dtype == np.uint8:
        return partial(_asymmetric, high=127 if reduced else 255)
    high = 64 if reduced else 127
    grid = _Grid(-high, high, axis)
    weight = torch.from_numpy(values.copy())
    needed = _largest(weight, axis) / high
    given = torch.from_numpy(scale.reshape(-1).astype(np.float32))
    least = torch.where(given > _RAISED * needed, given, torch.zeros_like(given)).clamp_min(_LEAST_SCALE)
    return partial(_symmetric, grid=grid, least=least)


def _largest(weight: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return weight.abs().max().reshape(1)
    return weight.abs().movedim(axis, 0).flatten(1).amax(1)


def _symmetric(weight: Tensor, grid: _Grid, least: Tensor) -> Tensor:
    scale = torch.maximum(_largest(weight.detach(), grid.axis) / grid.high, least)
    if grid.axis is None:
        return torch.fake_quantize_per_tensor_affine(weight, float(scale), 0, grid.low, grid.high)
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, grid.axis, grid.low, grid.high)


def _asymmetric(weight: Tensor, high: int) -> Tensor:
    values = weight.detach()
    low, top = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = max((top - low) / high, _LEAST_SCALE)
    return torch.fake_quantize_per_tensor_affine(weight, scale, round(-low / scale), 0, high)
