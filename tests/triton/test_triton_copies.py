"""Both runtimes compare a copy's answer alike: a rollout's verdict does not depend on the runtime."""

import json
import struct
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from longshore_server import mirrorcompare
from longshore_server.dtypes import BY_NAME
from longshore_server.session import TensorSpec
from longshore_triton import copies
from longshore_triton.traced import Tensor

_NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1.009, 1.011, 1e-7, 3e38, float("nan"), float("inf"), float("-inf")]),
    st.floats(-2, 2, width=32),
)
_SHAPES = st.sampled_from([(), (1,), (0, 3), (2, 2), (3, 1), (2, 1, 2)])
_DATATYPES = st.sampled_from(["FP32", "FP64", "INT64", "UINT8", "BOOL", "BYTES"])


def _values(datatype: str, numbers: list[float], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    count = int(np.prod(shape))
    if datatype == "BYTES":
        found = np.empty(count, object)
        found[:] = [repr(n).encode() for n in numbers[:count]]
        return found.reshape(shape)
    floats = np.array(numbers[:count], np.float64)
    if not datatype.startswith("FP"):
        floats = np.clip(np.nan_to_num(floats), 0, 3)
    with np.errstate(over="ignore"):
        return floats.astype(BY_NAME[datatype].numpy).reshape(shape)


def _answer(tensors: dict[str, Tensor]) -> tuple[bytes, int]:
    outputs, blobs = [], []
    for name, tensor in tensors.items():
        flat = tensor.values.reshape(-1)
        blob = (
            b"".join(struct.pack("<I", len(text)) + text for text in flat)
            if tensor.datatype == "BYTES"
            else flat.tobytes()
        )
        outputs.append(
            {
                "name": name,
                "datatype": tensor.datatype,
                "shape": list(tensor.values.shape),
                "parameters": {"binary_data_size": len(blob)},
            }
        )
        blobs.append(blob)
    head = json.dumps({"outputs": outputs}).encode()
    return head + b"".join(blobs), len(head)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(_DATATYPES, _DATATYPES, st.booleans()),
    st.tuples(_SHAPES, _SHAPES, st.booleans()),
    st.lists(_NUMBERS, min_size=4, max_size=4),
    st.lists(_NUMBERS, min_size=4, max_size=4),
    st.sampled_from([0, 1, 2, 3]),
    st.booleans(),
    st.sampled_from([0.0, 0.01, 0.5]),
)
@example(("FP32", "FP32", True), ((2, 2), (2, 2), True), [1.0] * 4, [1.009] * 4, 0, True, 0.01)
@example(("FP32", "FP32", True), ((2, 2), (2, 2), True), [1.0] * 4, [1.011] * 4, 0, True, 0.01)
@example(("FP64", "FP64", True), ((2, 2), (2, 2), True), [1e-7] * 4, [0.0] * 4, 0, True, 0.0)
def test_both_runtimes_compare_answers_alike(
    datatypes: tuple[str, str, bool],
    shapes: tuple[tuple[int, ...], tuple[int, ...], bool],
    numbers: list[float],
    others: list[float],
    kept: int,
    rows: bool,
    tolerance: float,
) -> None:
    datatype = datatypes[0]
    other_datatype = datatype if datatypes[2] else datatypes[1]
    shape, other_shape = shapes[0], shapes[0] if shapes[2] else shapes[1]
    others = numbers[:kept] + others[kept:]
    own = Tensor(datatype, _values(datatype, numbers, shape))
    other = Tensor(other_datatype, _values(other_datatype, others, other_shape))
    body, length = _answer({"y": other})

    spec = TensorSpec("y", BY_NAME[datatype], tuple(-1 for _ in shape), tuple("" for _ in shape))
    on_server = mirrorcompare.same(
        [spec], [own.values], mirrorcompare.parse_answer(body, length), rows, tolerance
    )
    on_triton = copies.same({"y": own}, copies._decode(body, str(length)), rows, tolerance)
    assert on_server == on_triton
    if (datatype, shape) == (other_datatype, other_shape) and others == numbers:
        assert on_triton
    if (datatype, shape) != (other_datatype, other_shape):
        assert not on_triton
