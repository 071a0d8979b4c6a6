"""Whether two revisions gave the same answer to one request.

An answer is the same when it has the same outputs, each of the same datatype and shape, and: numbers with a
fraction are near (the Euclidean distance of each row is within `tolerance` of the row's own length), whole
numbers, booleans and strings (labels, that is) are equal.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import orjson

from longshore_server.dtypes import BF16, BY_NAME, Array, Datatype, Kind, bf16_to_float, unpack_bytes
from longshore_server.session import TensorSpec

_NOTHING = 1e-6
"""Distance that two rows of zeros may have."""

_MOST_OUTPUTS = 1024
_MOST_RANK = 64


class BadAnswerError(Exception):
    """What came back is no answer of the protocol."""


Tensor = tuple[str, Array]
"""Datatype and values; strings as bytes."""


def same(
    specs: Sequence[TensorSpec],
    own: Sequence[Array],
    answer: Mapping[str, Tensor],
    rows: bool,
    tolerance: float,
) -> bool:
    """Compare an answer with one's own.

    Args:
        specs: one's own outputs.
        own: their values, in that order.
        answer: the other's outputs by name.
        rows: the first dimension counts rows that are independent of each other.
        tolerance: see above.
    """
    if answer.keys() != {spec.name for spec in specs}:
        return False
    for spec, values in zip(specs, own, strict=True):
        datatype, other = answer[spec.name]
        if datatype != spec.datatype.name or other.shape != values.shape:
            return False
        if not _same_values(spec.datatype, values, other, rows, tolerance):
            return False
    return True


def _same_values(datatype: Datatype, own: Array, other: Array, rows: bool, tolerance: float) -> bool:
    if datatype.kind is Kind.STRING:
        texts = [text.encode() if isinstance(text, str) else text for text in own.reshape(-1).tolist()]
        return bool(texts == other.reshape(-1).tolist())
    if datatype.kind is not Kind.FLOAT:
        return bool(np.array_equal(own, other))
    count = own.shape[0] if rows and own.ndim else 1
    if not own.size:
        return True
    mine, others = (_floats(datatype, values).reshape(count, -1) for values in (own, other))
    return _near(mine, others, tolerance)


def _floats(datatype: Datatype, values: Array) -> Array:
    return (bf16_to_float(values) if datatype is BF16 else values).astype(np.float64)


def _near(own: Array, other: Array, tolerance: float) -> bool:
    odd = ~np.isfinite(own) | ~np.isfinite(other)
    if odd.any():
        if not np.array_equal(own[odd], other[odd], equal_nan=True):
            return False
        own, other = np.where(odd, 0.0, own), np.where(odd, 0.0, other)
    # Values near the end of the range have squares beyond it.
    scale = np.maximum(np.maximum(np.abs(own).max(axis=1), np.abs(other).max(axis=1)), 1.0)[:, None]
    distance = np.linalg.norm(own / scale - other / scale, axis=1)
    return bool(np.all(distance <= tolerance * np.linalg.norm(own / scale, axis=1) + _NOTHING / scale[:, 0]))


def parse_answer(body: bytes, json_length: int) -> dict[str, Tensor]:
    """Read an answer of the Open Inference Protocol with binary tensors, by output.

    Raises `BadAnswerError`: whoever answers is not trusted to speak the protocol.
    """
    if not 0 < json_length <= len(body):
        raise BadAnswerError("it has no binary tensors")
    try:
        outputs = orjson.loads(body[:json_length])["outputs"]
        if not isinstance(outputs, list) or len(outputs) > _MOST_OUTPUTS:
            raise BadAnswerError("its outputs are no list, or too many")
        found: dict[str, Tensor] = {}
        position = json_length
        for output in outputs:
            size = output["parameters"]["binary_data_size"]
            if type(size) is not int or size < 0:
                raise BadAnswerError("a size is no whole number")
            found[str(output["name"])] = _tensor(output, memoryview(body)[position : position + size])
            position += size
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise BadAnswerError(str(error)) from None
    if position != len(body):
        raise BadAnswerError("its tensors do not end where it does")
    return found


def _tensor(output: Mapping[str, Any], raw: memoryview) -> Tensor:
    datatype, shape = BY_NAME[output["datatype"]], output["shape"]
    if len(shape) > _MOST_RANK or not all(type(size) is int and size >= 0 for size in shape):
        raise BadAnswerError("a shape is no list of sizes")
    count = prod(shape)
    if datatype.is_bytes:
        if count > len(raw):
            raise BadAnswerError("a shape wants more strings than there are")
        strings = np.empty(count, object)
        strings[:] = unpack_bytes(raw, count)
        return datatype.name, strings.reshape(shape)
    if count * datatype.itemsize != len(raw):
        raise BadAnswerError("a tensor has another size than its shape wants")
    return datatype.name, np.frombuffer(raw, datatype.numpy).reshape(shape)
