"""TensorFlow Serving over gRPC: PredictionService.Predict and ModelService.GetModelStatus."""

import time
from typing import Any

import numpy as np

from longshore_server.dtypes import BF16, BYTES, FP16, Array, Datatype
from longshore_server.errors import RequestError, bad_request, not_found
from longshore_server.grpcstream import Stream
from longshore_server.inference import Outputs, Payload, Work
from longshore_server.messages import Messages
from longshore_server.served import ServedModel
from longshore_server.tfrest import SIGNATURE

# tensorflow/core/framework/tensor.proto: the field with one value an element, by DataType.
_VALUES = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val", 7: "string_val",
    9: "int64_val", 10: "bool_val", 14: "half_val", 17: "int_val", 19: "half_val", 22: "uint32_val",
    23: "uint64_val",
}  # fmt: skip
_AVAILABLE, _LOADING = 30, 20  # get_model_status.proto, ModelVersionStatus.State


class PredictWork(Work):
    """One Predict call."""

    __slots__ = ("codec", "stream", "wanted")

    def __init__(self, work: Work, stream: Stream, codec: "Predict", wanted: list[int]) -> None:
        """`wanted`: the outputs to send."""
        super().__init__(work.group, work.rows, work.payloads, work.received, work.deadline)
        self.stream = stream
        self.codec = codec
        self.wanted = wanted

    @property
    def abandoned(self) -> bool:
        """Whether the client has cancelled, or is gone."""
        return self.stream.cancelled

    def finish(self, outputs: Outputs, start: int) -> None:
        """Send the answer."""
        self.stream.reply((self.codec.answer(outputs, start, self.rows, self.wanted),))

    def fail(self, error: RequestError) -> None:
        """End the call with the error."""
        self.stream.finish(error)


class Predict:
    """Decodes requests, encodes answers."""

    def __init__(self, served: ServedModel, messages: Messages) -> None:
        """One for each served model."""
        self._served = served
        self._request = messages.type("tensorflow.serving.PredictRequest")
        self._response = messages.type("tensorflow.serving.PredictResponse")
        self._status_request = messages.type("tensorflow.serving.GetModelStatusRequest")
        self._status_response = messages.type("tensorflow.serving.GetModelStatusResponse")

    def predict(self, stream: Stream, message: bytes | memoryview) -> None:
        """Take one request. Raises `RequestError`."""
        received = time.perf_counter()
        request = _parse(self._request, message)
        self._check_spec(request.model_spec)
        admission = self._served.admission
        specs = admission.signature.inputs
        for name in request.inputs:
            admission.position(name)
        shapes: list[tuple[int, ...] | None] = []
        payloads: list[Payload] = []
        for spec in specs:
            if spec.name not in request.inputs:
                shapes.append(None)
                continue
            tensor = request.inputs[spec.name]
            shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
            shapes.append(shape)
            payloads.append(_payload(spec.name, spec.datatype, tensor, shape))
        group, rows = admission.admit(shapes)
        timeout = stream.method.timeout
        work = Work(group, rows, payloads, received, None if timeout is None else received + timeout)
        wanted = [admission.output_position(name) for name in request.output_filter]
        wanted = wanted or list(range(len(admission.signature.outputs)))
        self._served.submit(PredictWork(work, stream, self, wanted))

    def answer(self, outputs: Outputs, start: int, rows: int, wanted: list[int]) -> bytes:
        """A PredictResponse."""
        response = self._response()
        response.model_spec.name = self._served.name
        response.model_spec.signature_name = SIGNATURE
        if self._served.version.isdigit():
            response.model_spec.version.value = int(self._served.version)
        for index in wanted:
            spec = outputs.signature.outputs[index]
            tensor = response.outputs[spec.name]
            tensor.dtype = spec.datatype.tensorflow
            for size in outputs.shape(index, rows):
                tensor.tensor_shape.dim.add().size = size
            if spec.datatype is BYTES:
                texts = outputs.array(index, start, rows).reshape(-1).tolist()
                tensor.string_val.extend(text.encode() for text in texts)
            else:
                tensor.tensor_content = bytes(outputs.raw(index, start, rows))
        return response.SerializeToString()  # type: ignore[no-any-return]

    def model_status(self, message: bytes | memoryview) -> bytes:
        """A GetModelStatusResponse. Raises `RequestError`."""
        self._check_spec(_parse(self._status_request, message).model_spec)
        response = self._status_response()
        status = response.model_version_status.add()
        status.version = int(self._served.version) if self._served.version.isdigit() else 0
        status.state = _AVAILABLE if self._served.is_ready else _LOADING
        status.status.error_code = 0
        return response.SerializeToString()  # type: ignore[no-any-return]

    def _check_spec(self, spec: Any) -> None:
        if spec.name != self._served.name:
            raise not_found(f"unknown model {spec.name!r}: this server has {self._served.name!r}")
        if spec.HasField("version") and str(spec.version.value) != self._served.version:
            raise not_found(f"unknown version {spec.version.value}: the model has {self._served.version}")
        if spec.signature_name not in ("", SIGNATURE):
            raise not_found(f"no signature {spec.signature_name!r}: the model has {SIGNATURE}")


def _parse(kind: Any, message: bytes | memoryview) -> Any:
    try:
        return kind.FromString(bytes(message))
    except Exception:  # noqa: BLE001 - DecodeError has no stable home among protobuf's implementations
        raise bad_request(f"the message is no {kind.DESCRIPTOR.name}") from None


def _payload(name: str, datatype: Datatype, tensor: Any, shape: tuple[int, ...]) -> Payload:
    if tensor.dtype != datatype.tensorflow:
        raise bad_request(
            f"input {name!r} has DataType {tensor.dtype}, the model wants {datatype.tensorflow}"
        )
    if any(size < 0 for size in shape):
        raise bad_request(f"input {name!r} has shape {list(shape)}")
    count = int(np.prod(shape, dtype=np.int64))
    content = tensor.tensor_content
    if content and datatype is not BYTES:
        if len(content) != count * datatype.itemsize:
            raise bad_request(
                f"input {name!r} has {len(content)} bytes, its shape wants {count * datatype.itemsize}"
            )
        return content
    values = getattr(tensor, _VALUES[datatype.tensorflow])
    if datatype is BYTES:
        return _texts(name, values, count)
    try:
        array: Array = np.array(values, np.uint16 if datatype in (FP16, BF16) else datatype.numpy)
    except OverflowError as error:
        raise bad_request(f"input {name!r} has a value that is no {datatype.name}: {error}") from None
    if 0 < len(array) < count:  # TensorProto: the last value fills the rest of the tensor
        array = np.pad(array, (0, count - len(array)), "edge")
    if len(array) != count:
        raise bad_request(f"input {name!r} has {len(array)} values, its shape {list(shape)} wants {count}")
    return array


def _texts(name: str, values: Any, count: int) -> list[str]:
    try:
        texts = [value.decode() for value in values]
    except UnicodeDecodeError:
        raise bad_request(f"input {name!r} has an element that is no UTF-8 text") from None
    texts += texts[-1:] * (count - len(texts))
    if len(texts) != count:
        raise bad_request(f"input {name!r} has {len(texts)} values, its shape wants {count}")
    return texts
