"""Between JSON values and the raw rows of tensors."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from longshore_server.dtypes import BF16, Array, Datatype, Kind, bf16_to_float, float_to_bf16
from longshore_server.errors import bad_request

_FLATTEN_DEPTH = 32


def from_json(name: str, datatype: Datatype, shape: Sequence[int], count: int, data: Any) -> Any:
    """Raw values of `data`, a flat or nested list (or a bare value for shape []).

    Raises `RequestError` when a value does not fit the datatype or their number is not `count`, the product
    of `shape`.
    """
    if not isinstance(data, list):
        data = [data]
    try:
        payload = _convert(datatype, data)
    except (TypeError, ValueError, OverflowError) as error:
        raise bad_request(f"input {name!r} has a value that is no {datatype.name}: {error}") from None
    if len(payload) != count:
        raise bad_request(f"input {name!r} has {len(payload)} values, its shape {list(shape)} wants {count}")
    return payload


def _convert(datatype: Datatype, data: list[Any]) -> Any:
    if datatype.typecode:
        try:
            return array(datatype.typecode, data)
        except TypeError:
            if not data or not isinstance(data[0], list):
                raise
            return array(datatype.typecode, _flat(data))
    flat = _flat(data)
    if datatype.kind is Kind.STRING:
        for value in flat:
            if not isinstance(value, str):
                raise TypeError(f"{value!r} is not a string")
        return flat
    if datatype.kind is Kind.BOOLEAN:
        for value in flat:
            if value is not True and value is not False and value not in (0, 1):
                raise TypeError(f"{value!r} is neither true nor false")
        return np.array(flat, bool)
    floats = np.array(array("d", flat), np.float64)
    return float_to_bf16(floats.astype(np.float32)) if datatype is BF16 else floats.astype(datatype.numpy)


def _flat(data: list[Any]) -> list[Any]:
    for _ in range(_FLATTEN_DEPTH):
        if not data or not isinstance(data[0], list):
            return data
        if not all(isinstance(part, list) for part in data):
            break
        data = [value for part in data for value in part]
    raise ValueError("lists and values are mixed")


def classify(datatype: Datatype, values: Array, count: int) -> list[str]:
    """The `count` highest values along the last axis, each as "value:index", for all leading positions in
    order.

    Source: Triton's classification extension.
    """
    if datatype.kind in (Kind.STRING, Kind.BOOLEAN):
        raise bad_request(f"classification needs numbers, not {datatype.name}")
    numbers = bf16_to_float(values) if datatype is BF16 else values
    rows = numbers.reshape(-1, numbers.shape[-1]) if numbers.ndim else numbers.reshape(1, 1)
    count = min(count, rows.shape[-1])
    order = np.argsort(-rows.astype(np.float64), axis=-1, kind="stable")[:, :count]
    return [
        f"{_score(row[index])}:{index}" for row, indexes in zip(rows, order, strict=True) for index in indexes
    ]


def _score(value: Any) -> str:
    return f"{value:f}" if isinstance(value, np.floating) else str(value)
