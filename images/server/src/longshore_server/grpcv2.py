"""Open Inference Protocol V2 over gRPC: ModelInfer and ModelStreamInfer.

Clients repeat themselves: two requests that differ in their tensors' values only are equal up to the first
`raw_input_contents` field, which comes last on the wire. So what was parsed once is kept by those bytes,
and the next request is sliced instead of parsed. Whatever does not fit that pattern goes through protobuf.
"""

import time
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from longshore_server import wire
from longshore_server.dtypes import BF16, BYTES, FP16, Datatype, Kind, pack_bytes
from longshore_server.errors import RequestError, bad_request, not_found
from longshore_server.grpcstream import Stream
from longshore_server.inference import Group, Outputs, Payload, Work
from longshore_server.messages import Messages
from longshore_server.served import ServedModel
from longshore_server.v2rest import bytes_payload
from longshore_server.values import classify

_MAX_CACHED = 1024
_MAX_CACHED_BYTES = 4096
_MAX_PREFIXES = 64
_LARGE = 16 << 10
_MICROSECONDS = 1e-6
# ModelInferResponse and its parts.
_MODEL_NAME, _MODEL_VERSION, _ID, _OUTPUTS, _RAW_OUTPUTS = 1, 2, 3, 5, 6
_OUTPUT_NAME, _OUTPUT_DATATYPE, _OUTPUT_SHAPE = 1, 2, 3
_STREAM_ERROR, _STREAM_RESPONSE = 1, 2
_RAW_INPUTS = 7

# Which field of InferTensorContents holds values of a datatype; FP16 and BF16 travel raw only.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class Call:
    """A request without its data: what is kept by its leading bytes."""

    __slots__ = ("group", "order", "prefixes", "raw_heads", "request_id", "rows", "timeout", "wishes")

    def __init__(
        self,
        group: Group,
        rows: int,
        request_id: str,
        wishes: Sequence[tuple[int, int]],
        timeout: float | None,
        order: Sequence[int],
    ) -> None:
        """`wishes` are (output, classes); `order` the inputs' places in the order of the request."""
        self.group = group
        self.rows = rows
        self.request_id = request_id
        self.wishes = wishes
        self.timeout = timeout
        self.order = order
        # For each input: the tag and length before its raw contents, and that length.
        self.raw_heads: list[tuple[bytes, int]] = []
        self.prefixes: dict[tuple[tuple[int, ...], ...], bytes] = {}


class InferWork(Work):
    """One ModelInfer call, or one request of a stream."""

    __slots__ = ("call", "codec", "stream")
    protocol: ClassVar[str] = "v2-grpc"

    def __init__(
        self, call: Call, payloads: Sequence[Payload], received: float, stream: Stream, codec: "V2Infer"
    ) -> None:
        """The deadline is the earlier one of the call's and the request's."""
        self.group = call.group
        self.rows = call.rows
        self.payloads = payloads
        self.received = received
        timeout, grpc_timeout = call.timeout, stream.method.timeout
        if grpc_timeout is not None:
            timeout = grpc_timeout if timeout is None else min(timeout, grpc_timeout)
        self.deadline = None if timeout is None else received + timeout
        self.call = call
        self.stream = stream
        self.codec = codec

    @property
    def abandoned(self) -> bool:
        """Whether the client has cancelled, or is gone."""
        return self.stream.cancelled

    def finish(self, outputs: Outputs, start: int) -> None:
        """Send the answer."""
        self.stream.reply(self.codec.answer(self.call, outputs, start, self.rows))

    def fail(self, error: RequestError) -> None:
        """End the call with the error."""
        self.stream.finish(error)


class StreamedWork(InferWork):
    """One request of a ModelStreamInfer stream: errors are messages too, and the stream goes on."""

    __slots__ = ()
    protocol: ClassVar[str] = "v2-grpc-stream"

    def finish(self, outputs: Outputs, start: int) -> None:
        """Send the answer as the stream's next message."""
        parts = self.codec.answer(self.call, outputs, start, self.rows)
        self._send((wire.head(_STREAM_RESPONSE, sum(map(len, parts))), *parts))

    def fail(self, error: RequestError) -> None:
        """Send the error as the stream's next message."""
        self._send(stream_error(error, self.call.request_id))

    def _send(self, parts: tuple[bytes | memoryview, ...]) -> None:
        stream = self.stream
        stream.open_answers -= 1
        stream.send(parts)
        if stream.client_done and not stream.open_answers:
            stream.finish()


def stream_error(error: RequestError, request_id: str = "") -> tuple[bytes, ...]:
    """A ModelStreamInferResponse with an error, and the id of the request that caused it."""
    response = wire.field(_ID, request_id)
    return (wire.field(_STREAM_ERROR, error.message) + wire.field(_STREAM_RESPONSE, response),)


class V2Infer:
    """Decodes requests, encodes answers."""

    def __init__(self, served: ServedModel, messages: Messages) -> None:
        """One for each served model."""
        self._served = served
        self._admission = served.admission
        self._request = messages.type("inference.ModelInferRequest")
        self._calls: dict[bytes, Call] = {}
        self._layouts: dict[int, int] = {}

    def infer(self, stream: Stream, message: bytes | memoryview) -> None:
        """Take the request of a unary call. Raises `RequestError`."""
        received = time.perf_counter()
        self._served.batcher.check_room()
        call, payloads = self._decode(message)
        self._served.submit(InferWork(call, payloads, received, stream, self))

    def stream_infer(self, stream: Stream, message: bytes | memoryview) -> None:
        """Take one request of a stream. Raises `RequestError`."""
        received = time.perf_counter()
        call, payloads = self._decode(message)
        self._served.submit(StreamedWork(call, payloads, received, stream, self))
        stream.open_answers += 1

    # Requests.

    def _decode(self, message: bytes | memoryview) -> tuple[Call, list[Payload]]:
        size = len(message)
        layout = self._layouts.get(size)
        if layout is not None:
            call = self._calls.get(bytes(message[:layout]))
            if call is not None:
                payloads = self._slice(call, message, layout)
                if payloads is not None:
                    return call, payloads
        return self._parse(message)

    def _slice(self, call: Call, message: bytes | memoryview, position: int) -> list[Payload] | None:
        """Raw contents at their known places; None when the message is laid out otherwise after all."""
        heads = call.raw_heads
        if len(message) > _LARGE:
            message = memoryview(message)
        if len(heads) == 1:
            head, length = heads[0]
            begin = position + len(head)
            if message[position:begin] == head and begin + length == len(message):
                return [message[begin:]]
            return None
        payloads: list[Payload] = [None] * len(heads)
        for index, (head, length) in zip(call.order, heads, strict=True):
            begin = position + len(head)
            if message[position:begin] != head:
                return None
            position = begin + length
            payloads[index] = message[begin:position]
        return payloads if position == len(message) else None

    def _parse(self, message: bytes | memoryview) -> tuple[Call, list[Payload]]:
        try:
            request = self._request.FromString(bytes(message))
        except Exception:  # noqa: BLE001 - DecodeError has no stable home among protobuf's implementations
            raise bad_request("the message is no ModelInferRequest") from None
        served = self._served
        if request.model_name != served.name:
            raise not_found(f"unknown model {request.model_name!r}: this server has {served.name!r}")
        if request.model_version not in ("", served.version):
            raise not_found(f"unknown version {request.model_version!r}: the model has {served.version!r}")
        if not request.inputs:
            raise bad_request("the request has no inputs")
        call = self._call(request)
        raws = request.raw_input_contents
        if not raws:
            payloads = self._typed(call, request.inputs)
        elif len(raws) != len(request.inputs):
            raise bad_request(
                f"{len(request.inputs)} inputs have {len(raws)} raw_input_contents: give one each"
            )
        else:
            payloads = self._raw(call, request.inputs, raws)
            self._keep(call, message, raws)
        return call, payloads

    def _keep(self, call: Call, message: bytes | memoryview, raws: Sequence[bytes]) -> None:
        """Remember a message whose raw contents come last, as every encoder writes them."""
        inputs = self._admission.signature.inputs
        if any(inputs[index].datatype is BYTES for index in call.order):
            return
        heads = [(wire.head(_RAW_INPUTS, len(raw)), len(raw)) for raw in raws]
        layout = len(message) - sum(len(head) + length for head, length in heads)
        if not 0 < layout <= _MAX_CACHED_BYTES:
            return
        call.raw_heads = heads
        if self._slice(call, message, layout) is None:
            return
        if len(self._calls) >= _MAX_CACHED:
            self._calls.clear()
            self._layouts.clear()
        self._calls[bytes(message[:layout])] = call
        self._layouts[len(message)] = layout

    def _call(self, request: Any) -> Call:
        admission = self._admission
        shapes: list[tuple[int, ...] | None] = [None] * len(admission.signature.inputs)
        order = []
        for tensor in request.inputs:
            index = admission.position(tensor.name)
            admission.check_datatype(index, tensor.datatype)
            if shapes[index] is not None:
                raise bad_request(f"input {tensor.name!r} is there twice")
            if "shared_memory_region" in tensor.parameters:
                raise bad_request("shared memory is not offered: send the tensors")
            shapes[index] = tuple(tensor.shape)
            order.append(index)
        group, rows = admission.admit(shapes)
        wishes = []
        for output in request.outputs:
            if "shared_memory_region" in output.parameters:
                raise bad_request("shared memory is not offered: take the tensors")
            classes = (
                output.parameters["classification"].int64_param
                if "classification" in output.parameters
                else 0
            )
            if classes < 0:
                raise bad_request("the parameter 'classification' must not be negative")
            wishes.append((admission.output_position(output.name), classes))
        if len({index for index, _ in wishes}) != len(wishes):
            raise bad_request("an output is asked for twice")
        if not wishes:
            wishes = [(index, 0) for index in range(len(admission.signature.outputs))]
        timeout = None
        if "timeout" in request.parameters:
            timeout = _whole(request.parameters["timeout"]) * _MICROSECONDS or None
        return Call(group, rows, request.id, wishes, timeout, order)

    def _raw(self, call: Call, tensors: Sequence[Any], raws: Sequence[bytes]) -> list[Payload]:
        payloads: list[Payload] = [None] * len(raws)
        for index, tensor, raw in zip(call.order, tensors, raws, strict=True):
            datatype = self._admission.signature.inputs[index].datatype
            if tensor.HasField("contents"):
                raise bad_request(f"input {tensor.name!r} has contents beside raw_input_contents: give one")
            if datatype is BYTES:
                payloads[index] = bytes_payload(tensor.name, raw, prod(tensor.shape))
                continue
            wanted = prod(tensor.shape) * datatype.itemsize
            if len(raw) != wanted:
                raise bad_request(
                    f"input {tensor.name!r} has {len(raw)} bytes, its shape {list(tensor.shape)} of "
                    f"{datatype.name} wants {wanted}"
                )
            payloads[index] = raw
        return payloads

    def _typed(self, call: Call, tensors: Sequence[Any]) -> list[Payload]:
        payloads: list[Payload] = [None] * len(tensors)
        for index, tensor in zip(call.order, tensors, strict=True):
            datatype = self._admission.signature.inputs[index].datatype
            payloads[index] = _contents(tensor, datatype)
        return payloads

    # Answers.

    def answer(self, call: Call, outputs: Outputs, start: int, rows: int) -> tuple[bytes | memoryview, ...]:
        """The parts of a ModelInferResponse, with raw contents as Triton sends them."""
        wishes = call.wishes
        if any(classes for _, classes in wishes):
            return self._classes(call, outputs, start, rows)
        shapes = tuple([outputs.shape(index, rows) for index, _ in wishes])
        prefix = call.prefixes.get(shapes)
        if prefix is None:
            tensors = [
                (outputs.signature.outputs[index].name, outputs.signature.outputs[index].datatype, shape)
                for (index, _), shape in zip(wishes, shapes, strict=True)
            ]
            prefix = self._prefix(call, tensors)
            if len(call.prefixes) < _MAX_PREFIXES:
                call.prefixes[shapes] = prefix
        if len(wishes) == 1:
            raw = outputs.raw(wishes[0][0], start, rows)
            return (prefix, wire.head(_RAW_OUTPUTS, len(raw)), raw)
        parts: list[bytes | memoryview] = [prefix]
        for index, _ in wishes:
            raw = outputs.raw(index, start, rows)
            parts += (wire.head(_RAW_OUTPUTS, len(raw)), raw)
        return tuple(parts)

    def _prefix(self, call: Call, tensors: Sequence[tuple[str, Datatype, Sequence[int]]]) -> bytes:
        described = b"".join(
            wire.field(
                _OUTPUTS,
                wire.field(_OUTPUT_NAME, name)
                + wire.field(_OUTPUT_DATATYPE, datatype.name)
                + wire.packed(_OUTPUT_SHAPE, shape),
            )
            for name, datatype, shape in tensors
        )
        return (
            wire.field(_MODEL_NAME, self._served.name)
            + wire.field(_MODEL_VERSION, self._served.version)
            + wire.field(_ID, call.request_id)
            + described
        )

    def _classes(self, call: Call, outputs: Outputs, start: int, rows: int) -> tuple[bytes | memoryview, ...]:
        tensors: list[tuple[str, Datatype, Sequence[int]]] = []
        parts: list[bytes | memoryview] = []
        for index, classes in call.wishes:
            spec = outputs.signature.outputs[index]
            shape: Sequence[int] = outputs.shape(index, rows)
            raw = outputs.raw(index, start, rows) if not classes else b""
            datatype = spec.datatype
            if classes:
                labels = classify(datatype, outputs.array(index, start, rows), classes)
                leading = prod(shape[:-1])
                shape, datatype = [*shape[:-1], len(labels) // leading if leading else 0], BYTES
                raw = pack_bytes(labels)
            tensors.append((spec.name, datatype, shape))
            parts += (wire.head(_RAW_OUTPUTS, len(raw)), raw)
        return (self._prefix(call, tensors), *parts)


def _whole(parameter: Any) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    value: Any = getattr(parameter, kind) if kind else 0
    if kind == "string_param" and value.isdigit():
        value = int(value)
    if type(value) is not int or value < 0:
        raise bad_request("the parameter 'timeout' must be a whole number of microseconds")
    return int(value)


def _contents(tensor: Any, datatype: Datatype) -> Payload:
    """Values from the typed fields."""
    if datatype in (FP16, BF16):
        raise bad_request(
            f"input {tensor.name!r} is {datatype.name}, which travels in raw_input_contents only"
        )
    values = getattr(tensor.contents, _CONTENTS[datatype.name])
    if len(values) != prod(tensor.shape):
        raise bad_request(
            f"input {tensor.name!r} has {len(values)} values in {_CONTENTS[datatype.name]}, its shape "
            f"{list(tensor.shape)} wants {prod(tensor.shape)}"
        )
    if datatype.kind is Kind.STRING:
        try:
            return [value.decode() for value in values]
        except UnicodeDecodeError:
            raise bad_request(f"input {tensor.name!r} has an element that is no UTF-8 text") from None
    try:
        return np.array(values, datatype.numpy)
    except OverflowError as error:
        raise bad_request(f"input {tensor.name!r} has a value that is no {datatype.name}: {error}") from None
