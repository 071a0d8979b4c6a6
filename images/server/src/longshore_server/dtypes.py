"""The datatypes of the Open Inference Protocol and what they are to numpy, JSON and ONNX Runtime.

Source of the names: Open Inference Protocol V2, "Tensor Data Types". BF16 has no numpy type: it travels
as its bits in uint16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Kind(Enum):
    """How values of a datatype look in JSON."""

    FLOAT = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRING = "string"


@dataclass(frozen=True, slots=True, eq=False)
class Datatype:
    """One datatype: `itemsize` is in bytes (0 for BYTES); `onnx` the number in TensorProto.DataType."""

    name: str
    numpy: np.dtype[Any]
    itemsize: int
    kind: Kind
    onnx: int
    tensorflow: int
    typecode: str = ""

    @property
    def is_bytes(self) -> bool:
        """Whether elements have a length of their own."""
        return self.itemsize == 0

    def __repr__(self) -> str:
        return self.name


def _datatype(
    name: str,
    numpy: str,
    kind: Kind,
    onnx: int,
    tensorflow: int,
    typecode: str = "",
    itemsize: int | None = None,
) -> Datatype:
    dtype = np.dtype(numpy)
    return Datatype(
        name, dtype, dtype.itemsize if itemsize is None else itemsize, kind, onnx, tensorflow, typecode
    )


# Numbers: onnx.proto TensorProto.DataType and tensorflow/core/framework/types.proto DataType.
# Type codes: those of the `array` module, where it has the type.
FP32 = _datatype("FP32", "float32", Kind.FLOAT, 1, 1, "f")
FP64 = _datatype("FP64", "float64", Kind.FLOAT, 11, 2, "d")
FP16 = _datatype("FP16", "float16", Kind.FLOAT, 10, 19)
BF16 = _datatype("BF16", "uint16", Kind.FLOAT, 16, 14)
INT8 = _datatype("INT8", "int8", Kind.INTEGER, 3, 6, "b")
INT16 = _datatype("INT16", "int16", Kind.INTEGER, 5, 5, "h")
INT32 = _datatype("INT32", "int32", Kind.INTEGER, 6, 3, "i")
INT64 = _datatype("INT64", "int64", Kind.INTEGER, 7, 9, "q")
UINT8 = _datatype("UINT8", "uint8", Kind.INTEGER, 2, 4, "B")
UINT16 = _datatype("UINT16", "uint16", Kind.INTEGER, 4, 17, "H")
UINT32 = _datatype("UINT32", "uint32", Kind.INTEGER, 12, 22, "I")
UINT64 = _datatype("UINT64", "uint64", Kind.INTEGER, 13, 23, "Q")
BOOL = _datatype("BOOL", "bool", Kind.BOOLEAN, 9, 10)
BYTES = _datatype("BYTES", "object", Kind.STRING, 8, 7, itemsize=0)

DATATYPES = (FP32, FP64, FP16, BF16, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, BOOL, BYTES)
BY_NAME = {datatype.name: datatype for datatype in DATATYPES}
BY_ONNX_TYPE = {
    "tensor(float)": FP32,
    "tensor(double)": FP64,
    "tensor(float16)": FP16,
    "tensor(bfloat16)": BF16,
    "tensor(int8)": INT8,
    "tensor(int16)": INT16,
    "tensor(int32)": INT32,
    "tensor(int64)": INT64,
    "tensor(uint8)": UINT8,
    "tensor(uint16)": UINT16,
    "tensor(uint32)": UINT32,
    "tensor(uint64)": UINT64,
    "tensor(bool)": BOOL,
    "tensor(string)": BYTES,
}


def float_to_bf16(values: Array) -> Array:
    """Round float32 `values` to bfloat16, ties to even; returns the bits as uint16 of the same shape."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # A NaN may round to infinity when only low mantissa bits are set: keep it a quiet NaN.
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def bf16_to_float(bits: Array) -> Array:
    """Widen bfloat16 bits (uint16) to float32, exactly; same shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def unpack_bytes(buffer: bytes | memoryview, count: int) -> list[bytes]:
    """Split a BYTES tensor into its elements: each is a 4-byte little-endian length and that many bytes.

    Raises `ValueError` when the buffer does not hold exactly `count` elements.
    """
    elements: list[bytes] = []
    position, end = 0, len(buffer)
    for _ in range(count):
        if position + 4 > end:
            raise ValueError(f"the data ends after {len(elements)} of {count} elements")
        length = int.from_bytes(buffer[position : position + 4], "little")
        position += 4
        if position + length > end:
            raise ValueError(f"element {len(elements)} says {length} bytes but {end - position} are left")
        elements.append(bytes(buffer[position : position + length]))
        position += length
    if position != end:
        raise ValueError(f"{end - position} bytes are left after {count} elements")
    return elements


def pack_bytes(elements: Sequence[str | bytes]) -> bytes:
    """The inverse of `unpack_bytes`; text is encoded as UTF-8."""
    parts: list[bytes] = []
    for element in elements:
        raw = element.encode() if isinstance(element, str) else element
        parts.append(len(raw).to_bytes(4, "little"))
        parts.append(raw)
    return b"".join(parts)
