"""TensorFlow Serving's REST predict call, which is KServe's V1 protocol too: rows as `instances` or columns
as `inputs`.

Source: "RESTful API", TensorFlow Serving's documentation.
"""

import base64
import binascii
import time
from math import prod
from typing import Any

import numpy as np
import orjson

from longshore_server.dtypes import BF16, BYTES, Array, Datatype, bf16_to_float
from longshore_server.errors import bad_request, not_found
from longshore_server.httpexchange import Exchange
from longshore_server.httphead import Body, RequestHead
from longshore_server.httpwork import EncodedWork
from longshore_server.inference import Outputs, Payload
from longshore_server.served import ServedModel
from longshore_server.session import TensorSpec
from longshore_server.values import from_json

SIGNATURE = "serving_default"
_FIELDS = {"signature_name", "instances", "inputs"}
_JSON = b"application/json"


class Predict:
    """The endpoint `POST /v1/models/NAME:predict`."""

    def __init__(self, served: ServedModel) -> None:
        """One for each served model."""
        self._served = served

    def __call__(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        """Take one request."""
        received = time.perf_counter()
        exchange.started = received
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise bad_request(f"the body is no JSON: {error}") from None
        self.predict(exchange, document, received)

    def predict(self, exchange: Exchange, document: Any, received: float) -> None:
        """Take one request whose body has been parsed."""
        if not isinstance(document, dict) or ("instances" in document) == ("inputs" in document):
            raise bad_request(
                "the body must be an object with either 'instances' (rows) or 'inputs' (columns)"
            )
        if unknown := document.keys() - _FIELDS:
            raise bad_request(f"unexpected field {sorted(unknown)[0]!r} in the request")
        if (signature := document.get("signature_name", SIGNATURE)) not in (SIGNATURE, ""):
            raise not_found(f"no signature {signature!r}: the model has {SIGNATURE}")
        by_rows = "instances" in document
        columns = self._rows(document["instances"]) if by_rows else self._columns(document["inputs"])
        specs = self._served.signature.inputs
        for name in columns:
            self._served.admission.position(name)
        shapes: list[tuple[int, ...] | None] = []
        payloads: list[Payload] = []
        for spec in specs:
            if spec.name not in columns:
                shapes.append(None)
                continue
            shape = _shape(columns[spec.name])
            if len(shape) > 0 or not spec.shape:
                shapes.append(shape)
            payloads.append(_payload(spec, shape, columns[spec.name]))
        admitted = self._served.admission.admit(shapes)
        encode = _encode_rows if by_rows else _encode_columns
        self._served.submit(EncodedWork(admitted, payloads, received, exchange, encode))

    def _rows(self, instances: Any) -> dict[str, Any]:
        if not isinstance(instances, list) or not instances:
            raise bad_request("'instances' must be a list of rows, with at least one")
        specs = self._served.signature.inputs
        first = instances[0]
        if not (isinstance(first, dict) and "b64" not in first):
            return {self._only_input("instances"): instances}
        names = first.keys()
        if any(not isinstance(row, dict) or row.keys() != names for row in instances):
            raise bad_request(
                f"each instance must be an object with the same inputs: {[spec.name for spec in specs]}"
            )
        return {name: [row[name] for row in instances] for name in names}

    def _columns(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, dict) and "b64" not in inputs:
            return inputs
        return {self._only_input("inputs"): inputs}

    def _only_input(self, field: str) -> str:
        specs = self._served.signature.inputs
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise bad_request(f"the model has several inputs ({names}): name each one in {field!r}")
        return specs[0].name


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of nested lists, read off their first elements."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _payload(spec: TensorSpec, shape: tuple[int, ...], value: Any) -> Payload:
    flat = value
    for depth in range(len(shape) - 1):
        if any(not isinstance(part, list) or len(part) != shape[depth + 1] for part in flat):
            raise bad_request(f"input {spec.name!r} is ragged: make all lists of one level equally long")
        flat = [element for part in flat for element in part]
    if spec.datatype is BYTES:
        flat = [_text(spec.name, element) for element in (flat if isinstance(flat, list) else [flat])]
    return from_json(spec.name, spec.datatype, shape, prod(shape), flat)


def _text(name: str, element: Any) -> Any:
    if isinstance(element, dict) and element.keys() == {"b64"}:
        try:
            return base64.b64decode(element["b64"], validate=True).decode()
        except (binascii.Error, TypeError, ValueError):
            raise bad_request(f"input {name!r} has an element that is no base64 of UTF-8 text") from None
    return element


def nested(datatype: Datatype, values: Array) -> Any:
    """`values` as orjson writes them nested, without a detour over Python's floats where it can."""
    if datatype is BYTES:
        return values.tolist()
    return np.ascontiguousarray(bf16_to_float(values) if datatype is BF16 else values)


def _encode_rows(outputs: Outputs, start: int, rows: int) -> tuple[bytes, bytes]:
    specs = outputs.signature.outputs
    arrays = [nested(spec.datatype, outputs.array(index, start, rows)) for index, spec in enumerate(specs)]
    if len(specs) == 1:
        return _dumps({"predictions": arrays[0]}), _JSON
    if any(getattr(array, "ndim", 1) == 0 or len(array) != len(arrays[0]) for array in arrays):
        raise bad_request("the outputs have different numbers of rows: ask with 'inputs' (columns) instead")
    predictions = [
        {spec.name: array[row] for spec, array in zip(specs, arrays, strict=True)}
        for row in range(len(arrays[0]))
    ]
    return _dumps({"predictions": predictions}), _JSON


def _encode_columns(outputs: Outputs, start: int, rows: int) -> tuple[bytes, bytes]:
    specs = outputs.signature.outputs
    arrays = {
        spec.name: nested(spec.datatype, outputs.array(index, start, rows))
        for index, spec in enumerate(specs)
    }
    return _dumps({"outputs": arrays if len(specs) > 1 else arrays[specs[0].name]}), _JSON


def _dumps(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def metadata(served: ServedModel) -> dict[str, Any]:
    """The answer to `GET /v1/models/NAME/metadata`."""
    signature = served.signature
    return {
        "model_spec": {"name": served.name, "signature_name": "", "version": served.version},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    SIGNATURE: {
                        "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
                        "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
                        "method_name": "tensorflow/serving/predict",
                    }
                }
            }
        },
    }


# tensorflow/core/framework/types.proto
_TENSORFLOW_NAMES = {
    1: "DT_FLOAT", 2: "DT_DOUBLE", 3: "DT_INT32", 4: "DT_UINT8", 5: "DT_INT16", 6: "DT_INT8",
    7: "DT_STRING", 9: "DT_INT64", 10: "DT_BOOL", 14: "DT_BFLOAT16", 17: "DT_UINT16", 19: "DT_HALF",
    22: "DT_UINT32", 23: "DT_UINT64",
}  # fmt: skip


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": _TENSORFLOW_NAMES[spec.datatype.tensorflow],
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in spec.shape],
            "unknown_rank": False,
        },
    }


def status(served: ServedModel) -> dict[str, Any]:
    """The answer to `GET /v1/models/NAME`: TensorFlow Serving's fields, and KServe's `name` and `ready`."""
    ready = served.is_ready
    return {
        "model_version_status": [
            {
                "version": served.version,
                "state": "AVAILABLE" if ready else "LOADING",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ],
        "name": served.name,
        "ready": ready,
    }
