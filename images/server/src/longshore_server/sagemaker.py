"""SageMaker's container contract: `GET /ping` and `POST /invocations` with JSON, CSV or a numpy file.

Source: "Custom Inference Code with Hosting Services", Amazon SageMaker's developer guide.
"""

import csv
import io
import time

import numpy as np
import orjson

from longshore_server.dtypes import BF16, BYTES, Array, bf16_to_float, float_to_bf16
from longshore_server.errors import GrpcStatus, RequestError, bad_request
from longshore_server.httpexchange import Exchange
from longshore_server.httphead import Body, RequestHead
from longshore_server.httpwork import Encode, EncodedWork
from longshore_server.inference import Outputs, Payload
from longshore_server.served import ServedModel
from longshore_server.session import TensorSpec
from longshore_server.tfrest import Predict, nested
from longshore_server.v2rest import V2Rest

_NPY = "application/x-npy"
_CSV = "text/csv"
_JSON = "application/json"
_MAX_NPY_HEADER = 4096


class Invocations:
    """The endpoint `POST /invocations`."""

    def __init__(self, served: ServedModel, v2: V2Rest, predict: Predict) -> None:
        """JSON bodies are V2 or TensorFlow Serving requests, told apart by their `inputs` or `instances`."""
        self._served = served
        self._v2 = v2
        self._predict = predict

    def __call__(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        """Take one request."""
        received = time.perf_counter()
        exchange.started = received
        content_type = head.header(b"content-type").partition(";")[0].strip().lower() or _JSON
        if content_type in (_JSON, "application/octet-stream"):
            self._json(exchange, head, body, received)
        elif content_type == _NPY:
            self._array(exchange, head, _read_npy(body), received)
        elif content_type == _CSV:
            self._array(exchange, head, _read_csv(self._input(), body), received)
        else:
            raise RequestError(
                415,
                GrpcStatus.INVALID_ARGUMENT,
                f"{content_type} is not taken: send {_JSON}, {_CSV} or {_NPY}",
            )

    def _json(self, exchange: Exchange, head: RequestHead, body: Body, received: float) -> None:
        if head.json_length >= 0:
            self._v2(exchange, head, body)
            return
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise bad_request(f"the body is no JSON: {error}") from None
        inputs = document.get("inputs") if isinstance(document, dict) else None
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) and "datatype" in inputs[0]:
            self._v2(exchange, head, body)
        else:
            self._predict.predict(exchange, document, received)

    def _input(self) -> TensorSpec:
        specs = self._served.signature.inputs
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise bad_request(f"the model has several inputs ({names}): send {_JSON}")
        return specs[0]

    def _array(self, exchange: Exchange, head: RequestHead, array: Array, received: float) -> None:
        spec = self._input()
        if spec.datatype is BYTES:
            payload: Payload = [str(value) for value in array.reshape(-1)]
        elif spec.datatype is BF16:
            payload = float_to_bf16(np.ascontiguousarray(array, np.float32))
        elif array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, spec.datatype.numpy, "same_kind"):
            raise bad_request(f"the array is {array.dtype}, the model wants {spec.datatype.name}")
        else:
            payload = np.ascontiguousarray(array, spec.datatype.numpy)
        admitted = self._served.admission.admit([tuple(array.shape)])
        encode = _encoder(head.header(b"accept"))
        self._served.submit(EncodedWork(admitted, [payload], received, exchange, encode))


def _read_npy(body: Body) -> Array:
    try:
        return np.load(io.BytesIO(bytes(body)), allow_pickle=False, max_header_size=_MAX_NPY_HEADER)  # type: ignore[no-any-return]
    except (ValueError, EOFError, OSError) as error:
        raise bad_request(f"the body is no .npy file: {error}") from None


def _read_csv(spec: TensorSpec, body: Body) -> Array:
    try:
        rows = [row for row in csv.reader(io.StringIO(bytes(body).decode())) if row]
        if spec.datatype is BYTES:
            return np.array(rows, str)
        whole = spec.datatype.numpy.kind in "iu" and spec.datatype is not BF16
        array = np.array(rows, str).astype(np.int64 if whole else np.float64)
    except (ValueError, csv.Error, UnicodeDecodeError) as error:
        raise bad_request(f"the body is no table of numbers in CSV: {error}") from None
    if array.ndim != 2:
        raise bad_request("the body has no rows")
    # One column of a model that takes plain numbers, or a row for each of its leading dimension.
    array = array[:, 0] if len(spec.shape) == 1 else array
    return array.astype(spec.datatype.numpy) if spec.datatype is not BF16 else array


def _encoder(accept: str) -> Encode:
    for part in accept.lower().split(","):
        wanted = part.partition(";")[0].strip()
        if wanted == _NPY:
            return _encode_npy
        if wanted == _CSV:
            return _encode_csv
        if wanted in ("", _JSON, "application/*", "*/*"):
            return _encode_json
    raise RequestError(
        406, GrpcStatus.INVALID_ARGUMENT, f"cannot answer with {accept}: ask for {_JSON}, {_CSV} or {_NPY}"
    )


def _encode_json(outputs: Outputs, start: int, rows: int) -> tuple[bytes, bytes]:
    specs = outputs.signature.outputs
    arrays = {
        spec.name: nested(spec.datatype, outputs.array(index, start, rows))
        for index, spec in enumerate(specs)
    }
    document = {"predictions": arrays if len(specs) > 1 else arrays[specs[0].name]}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), _JSON.encode()


def _encode_npy(outputs: Outputs, start: int, rows: int) -> tuple[bytes, bytes]:
    file = io.BytesIO()
    array = _first(outputs, start, rows)
    np.save(file, array.astype(str) if array.dtype == object else array, allow_pickle=False)
    return file.getvalue(), _NPY.encode()


def _encode_csv(outputs: Outputs, start: int, rows: int) -> tuple[bytes, bytes]:
    array = _first(outputs, start, rows)
    table = array.reshape(array.shape[0] if array.ndim else 1, -1)
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(table.tolist())
    return file.getvalue().encode(), _CSV.encode()


def _first(outputs: Outputs, start: int, rows: int) -> Array:
    """The first output: the formats of one array cannot hold more."""
    array = outputs.array(0, start, rows)
    return bf16_to_float(array) if outputs.signature.outputs[0].datatype is BF16 else array
