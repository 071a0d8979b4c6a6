"""One client, two runtimes: what a user of `tritonclient` does works the same on both."""

import asyncio
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from tritonclient.utils import InferenceServerException

from tests.triton.conftest import Endpoint

ROWS = np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)

Failure = InferenceServerException


@pytest.fixture
def http(mlp: Endpoint) -> Iterator[Any]:
    with httpclient.InferenceServerClient(mlp.http) as client:
        yield client


@pytest.fixture
def grpc(mlp: Endpoint) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(mlp.grpc) as client:
        yield client


def right_answer(endpoint: Endpoint, rows: Any = ROWS) -> Any:
    session = onnxruntime.InferenceSession(endpoint.directory / "model.onnx")
    return session.run(None, {"x": rows})[0]


def tensor(module: Any, rows: Any = ROWS, datatype: str = "FP32", **options: Any) -> Any:
    value = module.InferInput("x", list(rows.shape), datatype)
    value.set_data_from_numpy(rows, **options)
    return value


def settled(read: Callable[[], Any], beyond: Any = None) -> Any:
    """Give counts once they stand still: Triton counts a request after it has answered it."""
    deadline = time.monotonic() + 30
    last = None
    while time.monotonic() < deadline:
        now = read()
        if now == last and now != beyond:
            return now
        last = now
        time.sleep(0.05)
    raise AssertionError(f"the counts did not settle beyond {beyond}: {last}")


class TestHttp:
    @pytest.mark.parametrize("binary_in", [True, False])
    @pytest.mark.parametrize("binary_out", [True, False])
    def test_infers_by_json_and_binary(
        self, mlp: Endpoint, http: Any, binary_in: bool, binary_out: bool
    ) -> None:
        answer = http.infer(
            mlp.name,
            [tensor(httpclient, binary_data=binary_in)],
            outputs=[httpclient.InferRequestedOutput("y", binary_data=binary_out)],
            request_id="a7",
        )
        np.testing.assert_allclose(answer.as_numpy("y"), right_answer(mlp), atol=1e-5)
        assert answer.get_response()["id"] == "a7"

    def test_infers_more_rows_than_are_joined(self, mlp: Endpoint, http: Any) -> None:
        rows = np.tile(ROWS, (75, 1))
        answer = http.infer(mlp.name, [tensor(httpclient, rows)]).as_numpy("y")
        np.testing.assert_allclose(answer, right_answer(mlp, rows), atol=1e-5)

    @pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
    def test_infers_compressed(self, mlp: Endpoint, http: Any, algorithm: str) -> None:
        answer = http.infer(
            mlp.name,
            [tensor(httpclient)],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        np.testing.assert_allclose(answer.as_numpy("y"), right_answer(mlp), atol=1e-5)

    def test_classifies(self, mlp: Endpoint, http: Any) -> None:
        wanted = httpclient.InferRequestedOutput("y", binary_data=False, class_count=3)
        answer = http.infer(mlp.name, [tensor(httpclient)], outputs=[wanted]).as_numpy("y")
        check_classes(answer, right_answer(mlp))

    def test_tells_health_and_metadata(self, mlp: Endpoint, http: Any) -> None:
        assert http.is_server_live()
        assert http.is_server_ready()
        assert http.is_model_ready(mlp.name)
        assert not http.is_model_ready("another")
        metadata = http.get_model_metadata(mlp.name)
        assert metadata["name"] == mlp.name
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
        assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 8]}]
        assert http.get_server_metadata()["extensions"]

    def test_tells_its_configuration(self, mlp: Endpoint, http: Any) -> None:
        config = http.get_model_config(mlp.name)
        assert config["name"] == mlp.name
        assert config["max_batch_size"] > 1
        (given,) = config["input"]
        assert (given["name"], given["data_type"], [int(d) for d in given["dims"]]) == (
            "x",
            "TYPE_FP32",
            [16],
        )

    def test_lists_the_repository(self, mlp: Endpoint, http: Any) -> None:
        (entry,) = http.get_model_repository_index()
        assert (entry["name"], entry["state"]) == (mlp.name, "READY")

    def test_counts_what_it_answers(self, mlp: Endpoint, http: Any) -> None:

        def counts() -> tuple[int, int]:
            (model,) = http.get_inference_statistics(mlp.name)["model_stats"]
            return model["inference_count"], model["execution_count"]

        before = settled(counts)
        http.infer(mlp.name, [tensor(httpclient)])
        after = settled(counts, beyond=before)
        assert (after[0] - before[0], after[1] - before[1]) == (len(ROWS), 1)
        (model,) = http.get_inference_statistics(mlp.name)["model_stats"]
        assert int(model["inference_stats"]["success"]["count"]) > 0

    async def test_infers_by_asyncio(self, mlp: Endpoint) -> None:
        async with httpaio.InferenceServerClient(mlp.http) as client:
            answers = await asyncio.gather(
                *(client.infer(mlp.name, [tensor(httpclient, ROWS[i : i + 1])]) for i in range(4))
            )
        together = np.concatenate([answer.as_numpy("y") for answer in answers])
        np.testing.assert_allclose(together, right_answer(mlp), atol=1e-5)

    @pytest.mark.parametrize(
        ("rows", "datatype", "says"),
        [
            (ROWS[:, :15], "FP32", "x"),
            (ROWS.astype(np.float64), "FP64", "x"),
            (ROWS[None], "FP32", "x"),
        ],
    )
    def test_refuses_what_does_not_fit(
        self, mlp: Endpoint, http: Any, rows: Any, datatype: str, says: str
    ) -> None:
        with pytest.raises(Failure, match=says) as failure:
            http.infer(mlp.name, [tensor(httpclient, rows, datatype)])
        assert failure.value.status() in ("400", "422")

    def test_refuses_an_input_that_the_model_lacks(self, mlp: Endpoint, http: Any) -> None:
        stranger = httpclient.InferInput("stranger", [1, 16], "FP32")
        stranger.set_data_from_numpy(ROWS[:1])
        with pytest.raises(Failure, match="stranger") as failure:
            http.infer(mlp.name, [stranger])
        assert failure.value.status() == "400"

    def test_knows_no_other_model(self, http: Any) -> None:
        with pytest.raises(Failure) as failure:
            http.infer("another", [tensor(httpclient)])
        assert failure.value.status() in ("400", "404")

    def test_shares_no_memory(self, http: Any) -> None:
        with pytest.raises(Failure):
            http.register_system_shared_memory("region", "/region", 64)

    def test_loads_no_other_model(self, http: Any) -> None:
        with pytest.raises(Failure):
            http.load_model("another")
        with pytest.raises(Failure):
            http.unload_model("mlp")


class TestGrpc:
    def test_infers(self, mlp: Endpoint, grpc: Any) -> None:
        answer = grpc.infer(mlp.name, [tensor(grpcclient)], request_id="a7")
        np.testing.assert_allclose(answer.as_numpy("y"), right_answer(mlp), atol=1e-5)
        assert answer.get_response().id == "a7"

    async def test_infers_by_asyncio(self, mlp: Endpoint) -> None:
        async with grpcaio.InferenceServerClient(mlp.grpc) as client:
            answers = await asyncio.gather(
                *(client.infer(mlp.name, [tensor(grpcclient, ROWS[i : i + 1])]) for i in range(4))
            )
        together = np.concatenate([answer.as_numpy("y") for answer in answers])
        np.testing.assert_allclose(together, right_answer(mlp), atol=1e-5)

    def test_streams(self, mlp: Endpoint, grpc: Any) -> None:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        grpc.start_stream(lambda result, error: answers.put((result, error)))
        for i in range(4):
            grpc.async_stream_infer(mlp.name, [tensor(grpcclient, ROWS[i : i + 1])], request_id=str(i))
        found = {}
        for _ in range(4):
            result, error = answers.get(timeout=20)
            assert error is None
            found[int(result.get_response().id)] = result.as_numpy("y")
        grpc.stop_stream()
        np.testing.assert_allclose(np.concatenate([found[i] for i in range(4)]), right_answer(mlp), atol=1e-5)

    def test_classifies(self, mlp: Endpoint, grpc: Any) -> None:
        wanted = grpcclient.InferRequestedOutput("y", class_count=3)
        answer = grpc.infer(mlp.name, [tensor(grpcclient)], outputs=[wanted]).as_numpy("y")
        check_classes(answer, right_answer(mlp))

    def test_tells_health_and_metadata(self, mlp: Endpoint, grpc: Any) -> None:
        assert grpc.is_server_live()
        assert grpc.is_server_ready()
        assert grpc.is_model_ready(mlp.name)
        metadata = grpc.get_model_metadata(mlp.name)
        assert (metadata.inputs[0].name, list(metadata.inputs[0].shape)) == ("x", [-1, 16])
        assert grpc.get_server_metadata().extensions

    def test_tells_its_configuration(self, mlp: Endpoint, grpc: Any) -> None:
        config = grpc.get_model_config(mlp.name).config
        assert config.max_batch_size > 1
        assert list(config.input[0].dims) == [16]

    def test_lists_the_repository(self, mlp: Endpoint, grpc: Any) -> None:
        (entry,) = grpc.get_model_repository_index().models
        assert (entry.name, entry.state) == (mlp.name, "READY")

    def test_counts_what_it_answers(self, mlp: Endpoint, grpc: Any) -> None:
        def counts() -> tuple[int]:
            return (grpc.get_inference_statistics(mlp.name).model_stats[0].inference_count,)

        before = settled(counts)
        grpc.infer(mlp.name, [tensor(grpcclient)])
        assert settled(counts, beyond=before)[0] - before[0] == len(ROWS)

    def test_refuses_what_does_not_fit(self, mlp: Endpoint, grpc: Any) -> None:
        with pytest.raises(Failure) as failure:
            grpc.infer(mlp.name, [tensor(grpcclient, ROWS[:, :15])])
        assert failure.value.status() == "StatusCode.INVALID_ARGUMENT"

    def test_knows_no_other_model(self, grpc: Any) -> None:
        with pytest.raises(Failure) as failure:
            grpc.infer("another", [tensor(grpcclient)])
        assert failure.value.status() == "StatusCode.NOT_FOUND"


class TestBytes:
    TEXTS = np.array([[b"a", b""], ["grüße".encode(), b"c\x00d"]], dtype=np.object_)

    @pytest.mark.parametrize("binary", [True, False])
    def test_by_http(self, strings: Endpoint, binary: bool) -> None:
        with httpclient.InferenceServerClient(strings.http) as client:
            answer = client.infer(
                strings.name,
                [tensor(httpclient, self.TEXTS, "BYTES", binary_data=binary)],
                outputs=[httpclient.InferRequestedOutput("y", binary_data=binary)],
            ).as_numpy("y")
        assert [_bytes(v) for v in answer.ravel()] == list(self.TEXTS.ravel())

    def test_by_grpc(self, strings: Endpoint) -> None:
        with grpcclient.InferenceServerClient(strings.grpc) as client:
            answer = client.infer(strings.name, [tensor(grpcclient, self.TEXTS, "BYTES")]).as_numpy("y")
        assert [_bytes(v) for v in answer.ravel()] == list(self.TEXTS.ravel())

    def test_refuses_what_is_no_text(self, strings: Endpoint) -> None:
        broken = np.array([[b"\xff"]], dtype=np.object_)
        with httpclient.InferenceServerClient(strings.http) as client, pytest.raises(Failure, match="UTF-8"):
            client.infer(strings.name, [tensor(httpclient, broken, "BYTES")])


class TestMetrics:
    NAMES = (
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_count",
        "nv_inference_exec_count",
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_input_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_compute_output_duration_us",
        "nv_inference_pending_request_count",
    )

    def test_have_the_same_names(self, mlp: Endpoint) -> None:
        text = mlp.metrics()
        for name in self.NAMES:
            assert f"{name}{{" in text, name
        assert f'model="{mlp.name}"' in text

    def test_count_the_time_of_each_batch(self, mlp: Endpoint, http: Any) -> None:
        deadline = time.monotonic() + 20
        while "longshore_compute_time_seconds_total{" not in mlp.metrics():
            assert time.monotonic() < deadline
            http.infer(mlp.name, [tensor(httpclient)])


def check_classes(answer: Any, scores: Any) -> None:
    """Each entry is `value:index`, highest first."""
    assert answer.shape == (len(scores), 3)
    for row, expected in zip(answer, scores, strict=True):
        entries = [_bytes(entry).decode().split(":") for entry in row]
        assert [int(index) for _, index in entries] == list(np.argsort(-expected)[:3])
        np.testing.assert_allclose(
            [float(value) for value, _ in entries], np.sort(-expected)[:3] * -1, atol=1e-4
        )


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
