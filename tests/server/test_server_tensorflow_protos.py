"""PredictionService and ModelService, asked with TensorFlow Serving's own messages (see protos/collect.py).

Tensors are written and read as `tf.make_tensor_proto` and `tf.make_ndarray` do.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from onnx import TensorProto

from tests.server import models
from tests.server.harness import Server

POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
    (Path(__file__).parent / "protos" / "tensorflow_serving.binpb").read_bytes()
).file:
    POOL.Add(_file)


def message(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


PredictRequest = message("tensorflow.serving.PredictRequest")
PredictResponse = message("tensorflow.serving.PredictResponse")
StatusRequest = message("tensorflow.serving.GetModelStatusRequest")
StatusResponse = message("tensorflow.serving.GetModelStatusResponse")
Tensor = message("tensorflow.TensorProto")
DTYPES = POOL.FindEnumTypeByName("tensorflow.DataType").values_by_name
FIELDS = {
    "DT_FLOAT": "float_val",
    "DT_DOUBLE": "double_val",
    "DT_INT8": "int_val",
    "DT_INT16": "int_val",
    "DT_INT32": "int_val",
    "DT_INT64": "int64_val",
    "DT_UINT8": "int_val",
    "DT_UINT16": "int_val",
    "DT_UINT32": "uint32_val",
    "DT_UINT64": "uint64_val",
    "DT_BOOL": "bool_val",
    "DT_HALF": "half_val",
}
NUMPY: dict[str, Any] = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_INT8": np.int8,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT16": np.uint16,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
    "DT_BOOL": np.bool_,
    "DT_HALF": np.float16,
}
ONNX = {
    "DT_FLOAT": TensorProto.FLOAT,
    "DT_DOUBLE": TensorProto.DOUBLE,
    "DT_INT8": TensorProto.INT8,
    "DT_INT16": TensorProto.INT16,
    "DT_INT32": TensorProto.INT32,
    "DT_INT64": TensorProto.INT64,
    "DT_UINT8": TensorProto.UINT8,
    "DT_UINT16": TensorProto.UINT16,
    "DT_UINT32": TensorProto.UINT32,
    "DT_UINT64": TensorProto.UINT64,
    "DT_BOOL": TensorProto.BOOL,
    "DT_HALF": TensorProto.FLOAT16,
}


def tensor(kind: str, array: Any, in_fields: bool = False) -> Any:
    made = Tensor(dtype=DTYPES[kind].number)
    for size in array.shape:
        made.tensor_shape.dim.add(size=size)
    if in_fields:
        values = array.view(np.uint16) if kind == "DT_HALF" else array
        getattr(made, FIELDS[kind]).extend(values.ravel().tolist())
    else:
        made.tensor_content = array.tobytes()
    return made


def array_of(made: Any) -> Any:
    kind = next(name for name, value in DTYPES.items() if value.number == made.dtype)
    shape = [dim.size for dim in made.tensor_shape.dim]
    if kind == "DT_STRING":
        return np.array(list(made.string_val), object).reshape(shape)
    return np.frombuffer(made.tensor_content, NUMPY[kind]).reshape(shape)


class Client:
    """The two calls of the generated stubs."""

    def __init__(self, server: Server) -> None:
        self.channel = grpc.insecure_channel(server.grpc_address)
        self.predict = self.channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        self.status = self.channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            request_serializer=StatusRequest.SerializeToString,
            response_deserializer=StatusResponse.FromString,
        )


@pytest.fixture
def pair(two_inputs_server: Server) -> Iterator[Client]:
    client = Client(two_inputs_server)
    yield client
    client.channel.close()


def ask_pair() -> Any:
    request = PredictRequest()
    request.model_spec.name = "pair"
    request.model_spec.signature_name = "serving_default"
    request.inputs["a"].CopyFrom(tensor("DT_FLOAT", np.array([[1, 2, 3, 4]], np.float32)))
    request.inputs["b"].CopyFrom(tensor("DT_INT64", np.array([[5, 6, 7, 8]])))
    return request


def test_predict_answers_with_every_output_and_says_which_model(pair: Client) -> None:
    answer = pair.predict(ask_pair(), timeout=10)
    assert answer.outputs.keys() == {"total", "twice"}
    assert array_of(answer.outputs["total"]).tolist() == [[6, 8, 10, 12]]
    assert array_of(answer.outputs["twice"]).tolist() == [[10, 12, 14, 16]]
    assert answer.outputs["twice"].dtype == DTYPES["DT_INT64"].number
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("pair", 1)
    assert answer.model_spec.signature_name == "serving_default"


def test_output_filter_and_fields_for_other_servers(pair: Client) -> None:
    request = ask_pair()
    request.model_spec.version.value = 1
    request.output_filter.append("twice")
    request.client_id = b"me"
    request.request_options.max_cache_length = 7
    answer = pair.predict(request, timeout=10)
    assert list(answer.outputs) == ["twice"]


@pytest.mark.parametrize("change", ["name", "version", "signature", "input", "output", "missing", "dtype"])
def test_mistakes_have_codes_and_reasons(pair: Client, change: str) -> None:
    request = ask_pair()
    wanted = grpc.StatusCode.INVALID_ARGUMENT
    if change == "name":
        request.model_spec.name, wanted = "other", grpc.StatusCode.NOT_FOUND
    elif change == "version":
        request.model_spec.version.value, wanted = 2, grpc.StatusCode.NOT_FOUND
    elif change == "signature":
        request.model_spec.signature_name, wanted = "other", grpc.StatusCode.NOT_FOUND
    elif change == "input":
        request.inputs["c"].CopyFrom(request.inputs["a"])
    elif change == "output":
        request.output_filter.append("c")
    elif change == "missing":
        del request.inputs["a"]
    else:
        request.inputs["a"].dtype = DTYPES["DT_DOUBLE"].number
    with pytest.raises(grpc.RpcError) as caught:
        pair.predict(request, timeout=10)
    error: Any = caught.value
    assert error.code() == wanted
    assert len(error.details()) > 10


def test_model_status(pair: Client) -> None:
    request = StatusRequest()
    request.model_spec.name = "pair"
    (version,) = pair.status(request, timeout=10).model_version_status
    state = StatusResponse.DESCRIPTOR.file.message_types_by_name["ModelVersionStatus"].enum_types_by_name
    assert version.state == state["State"].values_by_name["AVAILABLE"].number
    assert (version.version, version.status.error_code) == (1, 0)


@pytest.mark.parametrize("kind", sorted(ONNX))
def test_every_datatype_both_ways_of_writing_it(tmp_path: Path, kind: str) -> None:
    values: Any = np.array([[0, 1, 1], [1, 0, 100]]).astype(NUMPY[kind])
    directory = models.identity(tmp_path / "same", ONNX[kind])
    with Server(directory) as server:
        client = Client(server)
        for in_fields in (False, True):
            request = PredictRequest()
            request.model_spec.name = "same"
            request.inputs["x"].CopyFrom(tensor(kind, values, in_fields))
            answer = client.predict(request, timeout=10)
            assert answer.outputs["y"].dtype == DTYPES[kind].number
            np.testing.assert_array_equal(array_of(answer.outputs["y"]), values)
        # tf.make_ndarray's rule: the last value fills the rest.
        short = tensor(kind, values[:1, :2], in_fields=True)
        short.tensor_shape.CopyFrom(request.inputs["x"].tensor_shape)
        request.inputs["x"].CopyFrom(short)
        filled = array_of(client.predict(request, timeout=10).outputs["y"]).ravel().tolist()
        assert filled == [values[0, 0], *[values[0, 1]] * 5]
        client.channel.close()


def test_strings(strings_server: Server) -> None:
    client = Client(strings_server)
    request = PredictRequest()
    request.model_spec.name = "strings"
    made = request.inputs["x"]
    made.dtype = DTYPES["DT_STRING"].number
    for size in (1, 3):
        made.tensor_shape.dim.add(size=size)
    made.string_val.extend([b"a", "né".encode()])
    answer = client.predict(request, timeout=10)
    assert array_of(answer.outputs["y"]).tolist() == [[b"a", "né".encode(), "né".encode()]]
    client.channel.close()
