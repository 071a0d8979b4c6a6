"""Acceptance: NVIDIA's `tritonclient`, unmodified, over HTTP and gRPC, threaded and asyncio."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from tests.server import models
from tests.server.harness import Server

TYPES = {
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "BOOL": (TensorProto.BOOL, np.bool_),
    "BYTES": (TensorProto.STRING, np.object_),
}


def sample(kind: str) -> Any:
    if kind == "BYTES":
        return np.array([["a", "né"], ["", "x" * 500]], np.object_)
    if kind == "BOOL":
        return np.array([[True, False], [False, False]])
    dtype = TYPES[kind][1]
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return np.array([[limits.min, limits.max], [0, 1]], dtype)
    return np.array([[0.5, -1.25], [1e4, 0]], dtype)


@pytest.fixture(scope="module", params=list(TYPES))
def typed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Server]]:
    kind = request.param
    with Server(models.identity(tmp_path_factory.mktemp("t") / "typed", TYPES[kind][0])) as server:
        yield kind, server


def test_every_datatype_comes_back(typed: tuple[str, Server]) -> None:
    kind, server = typed
    array = sample(kind)
    expected = array.tolist()

    def words(values: Any) -> Any:
        if kind != "BYTES":
            return values.tolist()
        return [[v.decode() if isinstance(v, bytes) else v for v in row] for row in values.tolist()]

    with httpclient.InferenceServerClient(server.address) as client:
        for binary in (True, False) if kind != "FP16" else (True,):
            one = httpclient.InferInput("x", list(array.shape), kind)
            one.set_data_from_numpy(array, binary_data=binary)
            out = httpclient.InferRequestedOutput("y", binary_data=binary)
            assert words(client.infer("typed", [one], outputs=[out]).as_numpy("y")) == expected
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        one = grpcclient.InferInput("x", list(array.shape), kind)
        one.set_data_from_numpy(array)
        for _ in range(3):  # parsed once, sliced afterwards
            assert words(client.infer("typed", [one]).as_numpy("y")) == expected


def test_bfloat16_travels_by_its_bits(tmp_path: Path) -> None:
    array = np.array([[1.5, -2.0], [0.0, 3.25]], ml_dtypes.bfloat16)
    with Server(models.identity(tmp_path / "bf16", TensorProto.BFLOAT16)) as server:
        with grpcclient.InferenceServerClient(server.grpc_address) as client:
            one = grpcclient.InferInput("x", [2, 2], "BF16")
            one.set_data_from_numpy(array)
            np.testing.assert_array_equal(client.infer("bf16", [one]).as_numpy("y"), array)
        status, answer = server.infer(
            {
                "inputs": [
                    {
                        "name": "x",
                        "shape": [2, 2],
                        "datatype": "BF16",
                        "data": array.astype(float).ravel().tolist(),
                    }
                ]
            }
        )
        assert (status, answer["outputs"][0]["data"]) == (200, array.astype(float).ravel().tolist())


def ask(module: Any, array: Any) -> Any:
    one = module.InferInput("x", list(array.shape), "FP32")
    one.set_data_from_numpy(array)
    return one


def runtime(server: Server, array: Any) -> Any:
    return ort.InferenceSession(server.model / "model.onnx").run(None, {"x": array})[0]


ARRAY = np.random.default_rng(9).random((3, 16), np.float32)


@pytest.mark.parametrize("module", [httpclient, grpcclient], ids=["http", "grpc"])
def test_the_whole_client(module: Any, mlp_server: Server) -> None:
    address = mlp_server.address if module is httpclient else mlp_server.grpc_address
    as_json = {"as_json": True} if module is grpcclient else {}
    with module.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("mlp")
        assert client.is_model_ready("mlp", "1")
        assert client.get_server_metadata(**as_json)["name"] == "longshore-server"
        metadata = client.get_model_metadata("mlp", **as_json)
        assert metadata["inputs"][0]["name"] == "x"
        assert [int(size) for size in metadata["inputs"][0]["shape"]] == [-1, 16]
        config = client.get_model_config("mlp", **as_json)
        config = config.get("config", config)
        assert int(config["max_batch_size"]) == 64
        index = client.get_model_repository_index(**as_json)
        index = index["models"] if module is grpcclient else index
        assert index[0]["state"] == "READY"
        result = client.infer("mlp", [ask(module, ARRAY)], request_id="seven", model_version="1")
        assert result.get_response(**as_json)["id"] == "seven"
        np.testing.assert_allclose(result.as_numpy("y"), runtime(mlp_server, ARRAY), atol=1e-5)
        statistics = client.get_inference_statistics("mlp", **as_json)
        assert int(statistics["model_stats"][0]["inference_stats"]["success"]["count"]) > 0
        out = module.InferRequestedOutput("y", class_count=2)
        labels = client.infer("mlp", [ask(module, ARRAY)], outputs=[out]).as_numpy("y")
        assert labels.shape == (3, 2)
        for compression in ("gzip", "deflate"):
            keys = (
                {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
                if module is httpclient
                else {"compression_algorithm": compression}
            )
            result = client.infer("mlp", [ask(module, ARRAY)], **keys)
            np.testing.assert_allclose(result.as_numpy("y"), runtime(mlp_server, ARRAY), atol=1e-5)


@pytest.mark.parametrize("module", [httpclient, grpcclient], ids=["http", "grpc"])
def test_mistakes_reach_the_client_with_their_codes(module: Any, mlp_server: Server) -> None:
    address = mlp_server.address if module is httpclient else mlp_server.grpc_address
    with module.InferenceServerClient(address) as client:
        assert not client.is_model_ready("other") if module is httpclient else True
        with pytest.raises(InferenceServerException, match="unknown model") as caught:
            client.infer("other", [ask(module, ARRAY)])
        assert caught.value.status() in ("404", "StatusCode.NOT_FOUND", None)
        with pytest.raises(InferenceServerException, match=r"the model wants \[-1, 16\]"):
            client.infer("mlp", [ask(module, ARRAY[:, :3].copy())])
        with pytest.raises(InferenceServerException, match="unexpected output"):
            client.infer("mlp", [ask(module, ARRAY)], outputs=[module.InferRequestedOutput("q")])
        with pytest.raises(InferenceServerException):
            client.load_model("mlp")
        with pytest.raises(InferenceServerException):
            client.get_system_shared_memory_status()


def test_async_infer_and_streams(mlp_server: Server) -> None:
    with httpclient.InferenceServerClient(mlp_server.address, concurrency=4) as client:
        pending = [client.async_infer("mlp", [ask(httpclient, ARRAY)]) for _ in range(8)]
        for one in pending:
            np.testing.assert_allclose(one.get_result().as_numpy("y"), runtime(mlp_server, ARRAY), atol=1e-5)
    with grpcclient.InferenceServerClient(mlp_server.grpc_address) as client:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        for number in range(4):
            client.async_infer(
                "mlp",
                [ask(grpcclient, ARRAY)],
                lambda result, error: answers.put((result, error)),
                request_id=str(number),
            )
        assert {answers.get(timeout=10)[0].get_response().id for _ in range(4)} == set("0123")
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(5):
            array = ARRAY if number != 3 else ARRAY[:, :3].copy()
            client.async_stream_infer("mlp", [ask(grpcclient, array)], request_id=str(number))
        got = [answers.get(timeout=10) for _ in range(5)]
        client.stop_stream()
    failures = [error for result, error in got if error is not None]
    assert len(failures) == 1
    assert "the model wants" in str(failures[0])
    assert [result.get_response().id for result, error in got if error is None] == ["0", "1", "2", "4"]


async def test_the_asyncio_clients(mlp_server: Server) -> None:
    expected = runtime(mlp_server, ARRAY)
    async with httpaio.InferenceServerClient(mlp_server.address) as http:
        assert await http.is_server_ready()
        result = await http.infer("mlp", [ask(httpclient, ARRAY)])
        np.testing.assert_allclose(result.as_numpy("y"), expected, atol=1e-5)
    async with grpcaio.InferenceServerClient(mlp_server.grpc_address) as grpc:
        assert await grpc.is_model_ready("mlp")
        result = await grpc.infer("mlp", [ask(grpcclient, ARRAY)], client_timeout=20)
        np.testing.assert_allclose(result.as_numpy("y"), expected, atol=1e-5)

        async def requests() -> Any:
            for number in range(3):
                yield {"model_name": "mlp", "inputs": [ask(grpcclient, ARRAY)], "request_id": str(number)}

        async for one, error in grpc.stream_infer(requests()):
            assert error is None
            np.testing.assert_allclose(one.as_numpy("y"), expected, atol=1e-5)


def test_large_tensors_cross_every_window(tmp_path: Path) -> None:
    array = np.random.default_rng(2).random((5, 400_000), np.float32)  # 8 MB each way
    with Server(models.identity(tmp_path / "wide", TensorProto.FLOAT)) as server:
        with grpcclient.InferenceServerClient(server.grpc_address) as client:
            for _ in range(2):
                np.testing.assert_array_equal(
                    client.infer("wide", [ask(grpcclient, array)]).as_numpy("y"), array
                )
        with httpclient.InferenceServerClient(server.address) as client:
            for _ in range(2):
                np.testing.assert_array_equal(
                    client.infer("wide", [ask(httpclient, array)]).as_numpy("y"), array
                )


def test_two_inputs_in_raw_and_typed_contents(two_inputs_server: Server) -> None:
    import grpc
    from longshore_server.messages import Messages

    messages = Messages()
    request_type = messages.type("inference.ModelInferRequest")
    response_type = messages.type("inference.ModelInferResponse")
    request = request_type(model_name="pair", id="typed")
    for name, datatype in (("b", "INT64"), ("a", "FP32")):
        request.inputs.add(name=name, datatype=datatype, shape=[1, 4])
    typed = request_type.FromString(request.SerializeToString())
    typed.inputs[0].contents.int64_contents.extend([1, 2, 3, 4])
    typed.inputs[1].contents.fp32_contents.extend([0.5] * 4)
    raw = request_type.FromString(request.SerializeToString())
    raw.raw_input_contents.append(np.array([1, 2, 3, 4], np.int64).tobytes())
    raw.raw_input_contents.append(np.full(4, 0.5, np.float32).tobytes())
    with grpc.insecure_channel(two_inputs_server.grpc_address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for one in (typed, raw, raw, typed):
            answer = response_type.FromString(call(one.SerializeToString()))
            assert [output.name for output in answer.outputs] == ["total", "twice"]
            assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1.5, 2.5, 3.5, 4.5]
            assert np.frombuffer(answer.raw_output_contents[1], np.int64).tolist() == [2, 4, 6, 8]
