"""What every protocol turns a request into, and what it gets back: shapes and raw rows, no JSON, no
protobuf.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import orjson

from longshore_server.cost import CostModel
from longshore_server.dtypes import BF16, BYTES, Array, Datatype, bf16_to_float, pack_bytes
from longshore_server.errors import RequestError, bad_request
from longshore_server.session import Signature, TensorSpec

# One input tensor of one request: raw little-endian values in C order, or the strings of a BYTES tensor.
Payload = Any

_SMALL_OUTPUT = 256 << 10
_MAX_GROUPS = 256


def payload_length(payload: Payload) -> int:
    """Bytes of one input; of strings about."""
    if isinstance(payload, list):
        return sum(len(text) + 4 for text in payload)
    return memoryview(payload).nbytes


def assemble(datatype: Datatype, shape: tuple[int, ...], payloads: Sequence[Payload]) -> Array:
    """One array of all payloads.

    A single one is used where it lies, unless its address does not suit its type.
    """
    if datatype.is_bytes:
        strings = [text for payload in payloads for text in payload]
        flat = np.empty(len(strings), object)
        flat[:] = strings
    else:
        flat = np.frombuffer(payloads[0] if len(payloads) == 1 else b"".join(payloads), datatype.numpy)
        if not flat.flags.aligned:
            flat = flat.copy()
    return flat.reshape(shape)


class Group:
    """Requests whose tensors can be joined: equal shapes apart from the leading (batch) dimension."""

    __slots__ = ("batched", "cost", "elements", "queue", "shapes")

    def __init__(self, shapes: tuple[tuple[int, ...], ...], batched: bool, cost: CostModel) -> None:
        """`shapes` are one row's when `batched`, else the whole inputs'."""
        self.shapes = shapes
        self.batched = batched
        self.cost = cost
        self.elements = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
        self.queue: deque[Work] = deque()


class Outputs:
    """What one run gave: the arrays of all outputs, of which each request owns `rows` from `start` on."""

    __slots__ = ("_blobs", "_texts", "arrays", "batched", "signature")

    def __init__(self, signature: Signature, arrays: Sequence[Array], batched: bool) -> None:
        """`batched`: whether leading dimensions count rows that belong to several requests."""
        self.signature = signature
        self.arrays = arrays
        self.batched = batched
        self._blobs: dict[int, tuple[Any, int]] = {}
        self._texts: dict[int, list[bytes]] = {}

    def array(self, index: int, start: int, rows: int) -> Array:
        """One request's part of output `index`, a view."""
        array = self.arrays[index]
        return array[start : start + rows] if self.batched else array

    def shape(self, index: int, rows: int) -> tuple[int, ...]:
        """The shape of that part."""
        shape = self.arrays[index].shape
        return (rows, *shape[1:]) if self.batched else shape

    def raw(self, index: int, start: int, rows: int) -> bytes | memoryview:
        """That part as the protocol's raw bytes: a slice of one copy when small, of the runtime's memory
        when large.
        """
        if self.signature.outputs[index].datatype is BYTES:
            return pack_bytes(self.array(index, start, rows).ravel().tolist())
        blob, row_bytes = self._blobs.get(index) or self._blob(index)
        if not self.batched:
            return blob  # type: ignore[no-any-return]
        return blob[start * row_bytes : (start + rows) * row_bytes]  # type: ignore[no-any-return]

    def json(self, index: int, start: int, rows: int) -> bytes:
        """That part as JSON: its flat values between commas. What JSON has no number for becomes null."""
        datatype = self.signature.outputs[index].datatype
        if rows == 1 and self.batched and len(self.arrays[index]) > 1 and datatype is not BYTES:
            texts = self._texts.get(index) or self._row_texts(index)
            return texts[start]
        array = self.array(index, start, rows).reshape(-1)
        if datatype is BYTES:
            return orjson.dumps(array.tolist())[1:-1]
        return orjson.dumps(_plain(datatype, array), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]

    def _row_texts(self, index: int) -> list[bytes]:
        """The text of each row, all written in one go."""
        array = self.arrays[index]
        table = _plain(self.signature.outputs[index].datatype, array.reshape(len(array), -1))
        texts = orjson.dumps(table, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
        self._texts[index] = texts
        return texts

    def _blob(self, index: int) -> tuple[Any, int]:
        array = self.arrays[index]
        row_bytes = array.nbytes // array.shape[0] if self.batched and array.shape[0] else 0
        small = array.nbytes <= _SMALL_OUTPUT
        blob = array.tobytes() if small else np.ascontiguousarray(array).data.cast("B")
        self._blobs[index] = blob, row_bytes
        return blob, row_bytes


def _plain(datatype: Datatype, array: Array) -> Array:
    return np.ascontiguousarray(bf16_to_float(array) if datatype is BF16 else array)


class Work:
    """One request on its way through the batcher. Protocols subclass it with how to answer.

    `received` and `deadline` are on the clock of `time.perf_counter`, in seconds.
    """

    __slots__ = ("deadline", "group", "payloads", "received", "rows")
    protocol: ClassVar[str] = ""
    copied: ClassVar[bool] = False
    """Whether it is the copy of a request that another revision answered."""

    def __init__(
        self, group: Group, rows: int, payloads: Sequence[Payload], received: float, deadline: float | None
    ) -> None:
        """`payloads` are in the signature's order; `rows` is 1 for a group that is not batched."""
        self.group = group
        self.rows = rows
        self.payloads = payloads
        self.received = received
        self.deadline = deadline

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return False

    def finish(self, outputs: Outputs, start: int) -> None:
        """Answer with `self.rows` rows of `outputs`, from row `start` on."""
        raise NotImplementedError

    def fail(self, error: RequestError) -> None:
        """Answer with an error."""
        raise NotImplementedError


class Admission:
    """Checks requests against a model's signature and sorts them into groups."""

    def __init__(self, signature: Signature, batched: bool, max_rank: int, cost: CostModel) -> None:
        """`batched`: whether rows of different requests may be joined; `cost`: the first guess for new
        groups.
        """
        self.signature = signature
        self.batched = batched
        self._max_rank = max_rank
        self._cost = cost
        self._groups: dict[tuple[tuple[int, ...], ...], Group] = {}
        self._positions = {spec.name: position for position, spec in enumerate(signature.inputs)}
        self.output_positions = {spec.name: position for position, spec in enumerate(signature.outputs)}

    def position(self, name: str) -> int:
        """The index of the input called `name`. Raises `RequestError` naming the model's inputs."""
        position = self._positions.get(name)
        if position is None:
            raise bad_request(
                f"unexpected input {name!r}: the model's inputs are {self._names(self.signature.inputs)}"
            )
        return position

    def output_position(self, name: str) -> int:
        """The same for an output."""
        position = self.output_positions.get(name)
        if position is None:
            names = self._names(self.signature.outputs)
            raise bad_request(f"unexpected output {name!r}: the model's outputs are {names}")
        return position

    def check_datatype(self, position: int, datatype: str) -> None:
        """Raise `RequestError` unless the input at `position` has this datatype."""
        spec = self.signature.inputs[position]
        if spec.datatype.name != datatype:
            raise bad_request(
                f"input {spec.name!r} has datatype {datatype}, the model wants {spec.datatype.name}"
            )

    def admit(self, shapes: Sequence[tuple[int, ...] | None]) -> tuple[Group, int]:
        """Check one request's shapes (in the signature's order); returns its group and its rows.

        Raises `RequestError` for a missing input or a shape that the model does not take.
        """
        for spec, shape in zip(self.signature.inputs, shapes, strict=True):
            if shape is None:
                names = self._names(self.signature.inputs)
                raise bad_request(f"input {spec.name!r} is missing: the model's inputs are {names}")
            self._check_shape(spec, shape)
        whole: tuple[tuple[int, ...], ...] = tuple(shape for shape in shapes if shape is not None)
        if not self.batched:
            return self._group(whole, False), 1
        rows = whole[0][0]
        if any(shape[0] != rows for shape in whole):
            given = ", ".join(str(list(shape)) for shape in whole)
            raise bad_request(f"inputs have different leading (batch) dimensions: {given}; make them equal")
        if rows == 0:
            return Group(whole, False, CostModel()), 1
        return self._group(tuple(shape[1:] for shape in whole), True), rows

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        if len(shape) > self._max_rank:
            raise bad_request(f"input {spec.name!r} has rank {len(shape)}, the limit is {self._max_rank}")
        fits = len(shape) == len(spec.shape) and all(
            size >= 0 and want in (-1, size) for size, want in zip(shape, spec.shape, strict=True)
        )
        if not fits:
            raise bad_request(
                f"input {spec.name!r} has shape {list(shape)}, the model wants {list(spec.shape)}"
            )

    def _group(self, shapes: tuple[tuple[int, ...], ...], batched: bool) -> Group:
        group = self._groups.get(shapes)
        if group is None:
            if len(self._groups) >= _MAX_GROUPS:
                # Forget the oldest idle shape; a shape that is waiting must keep its queue.
                idle = next((key for key, known in self._groups.items() if not known.queue), None)
                if idle is None:
                    return Group(shapes, batched, CostModel(self._cost.fixed, self._cost.per_row))
                del self._groups[idle]
            group = Group(shapes, batched, CostModel(self._cost.fixed, self._cost.per_row))
            self._groups[shapes] = group
        return group

    @staticmethod
    def _names(specs: Sequence[TensorSpec]) -> str:
        return ", ".join(f"{spec.name} ({spec.datatype.name}, {list(spec.shape)})" for spec in specs)
