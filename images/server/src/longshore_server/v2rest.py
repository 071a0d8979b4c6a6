"""Open Inference Protocol V2 over REST: `infer` with JSON and with binary tensors.

Source: the protocol's HTTP/REST text and Triton's binary tensor data and classification extensions.
"""

import time
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import orjson

from longshore_server.dtypes import BY_NAME, BYTES, pack_bytes, unpack_bytes
from longshore_server.errors import RequestError, bad_request
from longshore_server.httpexchange import Exchange
from longshore_server.httphead import Body, RequestHead
from longshore_server.inference import Admission, Group, Outputs, Payload, Work
from longshore_server.served import ServedModel
from longshore_server.values import classify, from_json

_MAX_CACHED_ASKS = 1024
_MAX_CACHED_JSON_BYTES = 4096
_MAX_CACHED_PREFIXES = 64
_MICROSECONDS = 1e-6


class Wish:
    """One output that is asked for: as binary or as JSON, and the number of classes (0: the values)."""

    __slots__ = ("binary", "classes", "index")

    def __init__(self, index: int, binary: bool, classes: int) -> None:
        self.index = index
        self.binary = binary
        self.classes = classes


class Slot:
    """One input of a request: its place in the signature, elements, and bytes in the binary part (None:
    JSON).
    """

    __slots__ = ("count", "index", "size")

    def __init__(self, index: int, count: int, size: int | None) -> None:
        self.index = index
        self.count = count
        self.size = size


class Ask:
    """A request without its data. Requests that differ in data only share one, and its prepared answer."""

    __slots__ = ("group", "prefixes", "request_id", "rows", "slots", "timeout", "wishes")

    def __init__(
        self,
        group: Group,
        rows: int,
        request_id: str,
        wishes: Sequence[Wish],
        timeout: float | None,
        slots: Sequence[Slot],
    ) -> None:
        """`timeout` in seconds; `slots` in the request's order."""
        self.group = group
        self.rows = rows
        self.request_id = request_id
        self.wishes = wishes
        self.timeout = timeout
        self.slots = slots
        self.prefixes: dict[tuple[int, ...], bytes] = {}


class V2Work(Work):
    """One `infer` call."""

    __slots__ = ("ask", "codec", "exchange")
    protocol: ClassVar[str] = "v2-rest"

    def __init__(
        self,
        ask: Ask,
        payloads: Sequence[Payload],
        received: float,
        exchange: Exchange,
        codec: "V2Rest",
    ) -> None:
        self.group = ask.group
        self.rows = ask.rows
        self.payloads = payloads
        self.received = received
        self.deadline = None if ask.timeout is None else received + ask.timeout
        self.ask = ask
        self.exchange = exchange
        self.codec = codec

    @property
    def abandoned(self) -> bool:
        """Whether the connection is gone."""
        return self.exchange.closed

    def finish(self, outputs: Outputs, start: int) -> None:
        """Write the answer."""
        self.codec.answer(self, outputs, start)

    def fail(self, error: RequestError) -> None:
        """Write the error."""
        self.exchange.fail(error)


class CopiedWork(V2Work):
    """One `infer` call that is the copy of a request to another revision."""

    __slots__ = ()
    copied: ClassVar[bool] = True


class V2Rest:
    """The endpoint `POST /v2/models/NAME/infer`."""

    def __init__(self, served: ServedModel, work: type[V2Work] = V2Work) -> None:
        """One for each served model and kind of `work`."""
        self._work = work
        self._served = served
        self._admission: Admission = served.admission
        self._submit = served.submit
        self._asks: dict[Any, Ask] = {}
        self._binary_asks: dict[bytes, Ask] = {}

    def __call__(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        """Take one request."""
        received = time.perf_counter()
        exchange.started = received
        self._served.batcher.check_room()
        if head.json_length < 0:
            document = _load(body)
            known = self._known(document)
            if known is not None:
                self._submit(self._work(*known, received, exchange, self))
                return
            ask = self._ask(document, binary=False)
            payloads = self._json_payloads(document, ask)
        else:
            ask, payloads = self._binary(body, head.json_length)
        self._submit(self._work(ask, payloads, received, exchange, self))

    # Requests.

    def _known(self, document: dict[str, Any]) -> tuple[Ask, list[Payload]] | None:
        """The shortest way: one input and nothing else, whose name, datatype and shape came before."""
        try:
            (tensor,) = document["inputs"]
            if len(document) != 1 or len(tensor) != 4:
                return None
            key = (tensor["name"], tensor["datatype"], *tensor["shape"])
            ask = self._asks.get(key)
            if ask is None:
                ask = self._ask(document, binary=False)
                if len(self._asks) >= _MAX_CACHED_ASKS:
                    self._asks.clear()
                self._asks[key] = ask
            slot = ask.slots[0]
            spec = self._admission.signature.inputs[slot.index]
            return ask, [from_json(spec.name, spec.datatype, tensor["shape"], slot.count, tensor["data"])]
        except (TypeError, ValueError, KeyError):
            return None  # said properly by the longer way

    def _json_payloads(self, document: dict[str, Any], ask: Ask) -> list[Payload]:
        inputs = document["inputs"]
        payloads: list[Payload] = [None] * len(inputs)
        for slot in ask.slots:
            payloads[slot.index] = self._json_tensor(slot, inputs)
        return payloads

    def _binary(self, body: Body, json_length: int) -> tuple[Ask, list[Payload]]:
        if json_length > len(body):
            raise bad_request(
                f"Inference-Header-Content-Length is {json_length}, the whole body has {len(body)} bytes"
            )
        text = bytes(body[:json_length])
        ask = self._binary_asks.get(text) or self._binary_ask(text)
        slots = ask.slots
        if len(slots) == 1 and slots[0].size == len(body) - json_length:
            slot = slots[0]
            return ask, [self._raw(slot, body[json_length:])]
        payloads: list[Payload] = [None] * len(slots)
        position = json_length
        for slot in slots:
            if slot.size is None:
                # The document must be read again for the values that are JSON.
                payloads[slot.index] = self._json_tensor(slot, _load(text)["inputs"])
                continue
            payloads[slot.index] = self._raw(slot, body[position : position + slot.size])
            position += slot.size
        if position != len(body):
            raise bad_request(
                f"the binary tensors have {len(body) - json_length} bytes, "
                f"the request says {position - json_length}"
            )
        return ask, payloads

    def _binary_ask(self, text: bytes) -> Ask:
        ask = self._ask(_load(text), binary=True)
        if len(text) <= _MAX_CACHED_JSON_BYTES:
            if len(self._binary_asks) >= _MAX_CACHED_ASKS:
                self._binary_asks.clear()
            self._binary_asks[text] = ask
        return ask

    def _json_tensor(self, slot: Slot, inputs: list[dict[str, Any]]) -> Payload:
        spec = self._admission.signature.inputs[slot.index]
        tensor = next(tensor for tensor in inputs if tensor["name"] == spec.name)
        if "data" not in tensor:
            raise bad_request(f"input {spec.name!r} has no data")
        return from_json(spec.name, spec.datatype, tensor["shape"], slot.count, tensor["data"])

    def _raw(self, slot: Slot, raw: Body) -> Payload:
        spec = self._admission.signature.inputs[slot.index]
        if len(raw) != slot.size:
            raise bad_request(f"input {spec.name!r} says {slot.size} bytes, the body has {len(raw)} left")
        return raw if spec.datatype is not BYTES else bytes_payload(spec.name, raw, slot.count)

    def _ask(self, document: dict[str, Any], binary: bool) -> Ask:
        """Check everything but the data."""
        # Fields of other servers are passed over: KServe's client sends `model_name`, for one.
        inputs = document.get("inputs")
        if not isinstance(inputs, list) or not inputs:
            raise bad_request("the request has no inputs: give a list of tensors in 'inputs'")
        shapes: list[tuple[int, ...] | None] = [None] * len(self._admission.signature.inputs)
        slots = []
        for tensor in inputs:
            index, shape = self._tensor(tensor)
            if shapes[index] is not None:
                raise bad_request(f"input {tensor['name']!r} is there twice")
            shapes[index] = shape
            size = _parameter(tensor, "binary_data_size")
            if size is not None and (not binary or "data" in tensor):
                raise bad_request(
                    f"input {tensor['name']!r} has binary_data_size "
                    + (
                        "and data: give one"
                        if binary
                        else "but no Inference-Header-Content-Length header is there"
                    )
                )
            slots.append(self._slot(index, shape, size))
        group, rows = self._admission.admit(shapes)
        request_id = document.get("id", "")
        if not isinstance(request_id, str):
            raise bad_request("'id' must be a string")
        parameters = _object(document, "parameters")
        return Ask(
            group,
            rows,
            request_id,
            self._wishes(document, parameters),
            _timeout(parameters),
            slots,
        )

    def _slot(self, index: int, shape: tuple[int, ...], size: int | None) -> Slot:
        spec = self._admission.signature.inputs[index]
        count = prod(shape)
        if size is not None and spec.datatype is not BYTES and size != count * spec.datatype.itemsize:
            raise bad_request(
                f"input {spec.name!r} has {size} bytes, its shape {list(shape)} of {spec.datatype.name} "
                f"wants {count * spec.datatype.itemsize}"
            )
        return Slot(index, count, size)

    def _tensor(self, tensor: Any) -> tuple[int, tuple[int, ...]]:
        if not isinstance(tensor, dict):
            raise bad_request("each input must be an object with name, shape, datatype and data")
        name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
        if not isinstance(name, str):
            raise bad_request("an input has no name")
        index = self._admission.position(name)
        if not isinstance(datatype, str) or datatype not in BY_NAME:
            raise bad_request(f"input {name!r} has datatype {datatype!r}: use one of {', '.join(BY_NAME)}")
        self._admission.check_datatype(index, datatype)
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise bad_request(f"input {name!r} has no shape: give a list of whole numbers")
        return index, tuple(shape)

    def _wishes(self, document: dict[str, Any], parameters: dict[str, Any]) -> list[Wish]:
        default = parameters.get("binary_data_output", False)
        if not isinstance(default, bool):
            raise bad_request("the parameter 'binary_data_output' must be true or false")
        outputs = document.get("outputs")
        if outputs is None or outputs == []:
            return [Wish(index, default, 0) for index in range(len(self._admission.signature.outputs))]
        if not isinstance(outputs, list):
            raise bad_request("'outputs' must be a list")
        wishes = []
        for output in outputs:
            if not isinstance(output, dict) or not isinstance(output.get("name"), str):
                raise bad_request("each output must be an object with a name")
            own = _object(output, "parameters")
            binary, classes = own.get("binary_data", default), own.get("classification", 0)
            if not isinstance(binary, bool):
                raise bad_request("the parameter 'binary_data' must be true or false")
            if type(classes) is not int or classes < 0:
                raise bad_request("the parameter 'classification' must be a whole number")
            wishes.append(Wish(self._admission.output_position(output["name"]), binary, classes))
        if len({wish.index for wish in wishes}) != len(wishes):
            raise bad_request("an output is asked for twice")
        return wishes

    # Answers.

    def answer(self, work: V2Work, outputs: Outputs, start: int) -> None:
        """Write the answer to one request."""
        ask, rows = work.ask, work.rows
        wishes = ask.wishes
        if len(wishes) == 1 and not wishes[0].classes:
            index = wishes[0].index
            shape = outputs.shape(index, rows)
            if not wishes[0].binary:
                prefix = ask.prefixes.get(shape) or self._json_prefix(ask, shape)
                data = outputs.json(index, start, rows)
                work.exchange.answer_json_bytes(b"%b[%b]}]}" % (prefix, data))
                return
            if outputs.signature.outputs[index].datatype is not BYTES:
                raw = outputs.raw(index, start, rows)
                document = ask.prefixes.get(shape) or self._binary_prefix(ask, shape, len(raw))
                _write_binary(work.exchange, document, raw)
                return
        self._answer_any(work, outputs, start)

    def _json_prefix(self, ask: Ask, shape: tuple[int, ...]) -> bytes:
        spec = self._admission.signature.outputs[ask.wishes[0].index]
        tensor = {"name": spec.name, "datatype": spec.datatype.name, "shape": list(shape)}
        prefix = self._envelope(ask) + orjson.dumps(tensor)[:-1] + b',"data":'
        _remember(ask, shape, prefix)
        return prefix

    def _binary_prefix(self, ask: Ask, shape: tuple[int, ...], size: int) -> bytes:
        spec = self._admission.signature.outputs[ask.wishes[0].index]
        tensor = {
            "name": spec.name,
            "datatype": spec.datatype.name,
            "shape": list(shape),
            "parameters": {"binary_data_size": size},
        }
        document = self._envelope(ask) + orjson.dumps(tensor) + b"]}"
        _remember(ask, shape, document)
        return document

    def _envelope(self, ask: Ask) -> bytes:
        """The answer's JSON up to and with the opening bracket of its outputs."""
        document = {"model_name": self._served.name, "model_version": self._served.version}
        if ask.request_id:
            document["id"] = ask.request_id
        return orjson.dumps(document)[:-1] + b',"outputs":['

    def _answer_any(self, work: V2Work, outputs: Outputs, start: int) -> None:
        """Several outputs, BYTES, classes, or JSON and binary together."""
        ask, rows = work.ask, work.rows
        texts: list[bytes] = []
        blobs: list[bytes | memoryview] = []
        for wish in ask.wishes:
            spec = outputs.signature.outputs[wish.index]
            shape = outputs.shape(wish.index, rows)
            tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype.name, "shape": list(shape)}
            text = b""
            raw: bytes | memoryview = b""
            if wish.classes:
                labels = classify(spec.datatype, outputs.array(wish.index, start, rows), wish.classes)
                leading = prod(shape[:-1])
                tensor |= {
                    "datatype": BYTES.name,
                    "shape": [*shape[:-1], len(labels) // leading if leading else 0],
                }
                raw = pack_bytes(labels) if wish.binary else b""
                text = b"" if wish.binary else orjson.dumps(labels)[1:-1]
            elif wish.binary:
                raw = outputs.raw(wish.index, start, rows)
            else:
                text = outputs.json(wish.index, start, rows)
            if wish.binary:
                tensor["parameters"] = {"binary_data_size": len(raw)}
                blobs.append(raw)
                texts.append(orjson.dumps(tensor))
            else:
                texts.append(orjson.dumps(tensor)[:-1] + b',"data":[' + text + b"]}")
        document = self._envelope(ask) + b",".join(texts) + b"]}"
        if not blobs:
            work.exchange.answer_json_bytes(document)
            return
        _write_binary(work.exchange, document, blobs[0] if len(blobs) == 1 else b"".join(blobs))


def bytes_payload(name: str, raw: Body, count: int) -> list[str]:
    """The strings of a BYTES tensor of `count` elements. Raises `RequestError`."""
    try:
        return [element.decode() for element in unpack_bytes(raw, count)]
    except UnicodeDecodeError:
        raise bad_request(
            f"input {name!r} has an element that is no UTF-8 text, as strings of the model are"
        ) from None
    except ValueError as error:
        raise bad_request(f"input {name!r} is no BYTES tensor: {error}") from None


def _write_binary(exchange: Exchange, document: bytes, raw: bytes | memoryview) -> None:
    headers = b"Inference-Header-Content-Length: %d\r\n" % len(document)
    exchange.answer_parts(document, raw, b"application/octet-stream", headers)


def _remember(ask: Ask, shape: tuple[int, ...], prefix: bytes) -> None:
    if len(ask.prefixes) < _MAX_CACHED_PREFIXES:
        ask.prefixes[shape] = prefix


def _load(body: Body) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise bad_request("the body must be a JSON object")
    return document


def _object(document: dict[str, Any], field: str) -> dict[str, Any]:
    value = document.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_request(f"{field!r} must be an object")
    return value


def _parameter(tensor: dict[str, Any], name: str) -> int | None:
    value = _object(tensor, "parameters").get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise bad_request(f"the parameter {name!r} must be a whole number")
    return value


def _timeout(parameters: dict[str, Any]) -> float | None:
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if type(value) is not int or value < 0:
        raise bad_request("the parameter 'timeout' must be a whole number of microseconds")
    return value * _MICROSECONDS
