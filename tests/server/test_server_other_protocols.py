"""TensorFlow Serving's and SageMaker's ways to ask, over the same model."""

import io
import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest
from longshore_server.messages import Messages

from e2e.ports import free_ports
from tests.server import models
from tests.server.harness import Server

ROWS = np.random.default_rng(4).random((2, 16), np.float32)


def expected(server: Server) -> Any:
    return ort.InferenceSession(server.model / "model.onnx").run(None, {"x": ROWS})[0]


def test_tensorflow_serving_rest(mlp_server: Server, two_inputs_server: Server) -> None:
    status, answer = mlp_server.post("/v1/models/mlp:predict", {"instances": ROWS.tolist()})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], expected(mlp_server), atol=1e-5)
    named = [{"x": row} for row in ROWS.tolist()]
    assert mlp_server.post("/v1/models/mlp/versions/1:predict", {"instances": named})[1] == answer
    status, columns = mlp_server.post("/v1/models/mlp:predict", {"inputs": {"x": ROWS.tolist()}})
    assert columns["outputs"] == answer["predictions"]
    status, several = two_inputs_server.post(
        "/v1/models/pair:predict", {"instances": [{"a": [1, 2, 3, 4], "b": [1, 1, 1, 1]}]}
    )
    assert several == {"predictions": [{"total": [2, 3, 4, 5], "twice": [2, 2, 2, 2]}]}
    state = mlp_server.get("/v1/models/mlp")[1]
    assert state["model_version_status"][0]["state"] == "AVAILABLE"
    assert state["ready"] is True
    signature = mlp_server.get("/v1/models/mlp/metadata")[1]["metadata"]["signature_def"]["signature_def"]
    assert signature["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"instances": [], "inputs": []},
        {"instances": []},
        {"instances": [[1, 2], [1]]},
        {"instances": [["a"] * 16]},
        {"inputs": {"y": [1]}},
        {"instances": [{"x": [1] * 16}, {"z": [1] * 16}]},
        {"instances": [[1] * 16], "signature": "x"},
        {"instances": 5},
    ],
)
def test_tensorflow_serving_mistakes(mlp_server: Server, document: Any) -> None:
    status, answer = mlp_server.post("/v1/models/mlp:predict", document)
    assert status == 400
    assert answer["error"]


def test_strings_in_base64(strings_server: Server) -> None:
    status, answer = strings_server.post(
        "/v1/models/strings:predict", {"instances": [["a", {"b64": "bsOp"}]]}
    )
    assert (status, answer) == (200, {"predictions": [["a", "né"]]})


def test_tensorflow_serving_grpc(mlp_server: Server) -> None:
    messages = Messages()
    request = messages.type("tensorflow.serving.PredictRequest")()
    request.model_spec.name = "mlp"
    tensor = request.inputs["x"]
    tensor.dtype = 1
    for size in ROWS.shape:
        tensor.tensor_shape.dim.add().size = size
    response_type = messages.type("tensorflow.serving.PredictResponse")
    with grpc.insecure_channel(mlp_server.grpc_address) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for fill in (
            lambda: setattr(tensor, "tensor_content", ROWS.tobytes()),
            lambda: (tensor.ClearField("tensor_content"), tensor.float_val.extend(ROWS.ravel().tolist())),
        ):
            fill()
            answer = response_type.FromString(call(request.SerializeToString(), timeout=10))
            got = np.frombuffer(answer.outputs["y"].tensor_content, np.float32).reshape(2, 8)
            np.testing.assert_allclose(got, expected(mlp_server), atol=1e-5)
        request.model_spec.name = "other"
        with pytest.raises(grpc.RpcError) as caught:
            call(request.SerializeToString(), timeout=10)
        error: Any = caught.value
        assert error.code() == grpc.StatusCode.NOT_FOUND
        status = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
        ask = messages.type("tensorflow.serving.GetModelStatusRequest")()
        ask.model_spec.name = "mlp"
        found = messages.type("tensorflow.serving.GetModelStatusResponse").FromString(
            status(ask.SerializeToString(), timeout=10)
        )
        assert found.model_version_status[0].state == 30


def test_sagemaker_invocations(mlp_server: Server) -> None:
    wanted = expected(mlp_server)
    csv = "\n".join(",".join(map(str, row)) for row in ROWS.tolist()).encode()
    status, headers, body = mlp_server.request(
        "POST", "/invocations", csv, {"Content-Type": "text/csv", "Accept": "text/csv"}
    )
    assert (status, headers["content-type"]) == (200, "text/csv")
    np.testing.assert_allclose(np.loadtxt(io.BytesIO(body), delimiter=","), wanted, atol=1e-5)
    file = io.BytesIO()
    np.save(file, ROWS)
    status, headers, body = mlp_server.request(
        "POST",
        "/invocations",
        file.getvalue(),
        {"Content-Type": "application/x-npy", "Accept": "application/x-npy"},
    )
    assert status == 200
    np.testing.assert_allclose(np.load(io.BytesIO(body)), wanted, atol=1e-5)
    status, answer = mlp_server.post("/invocations", {"instances": ROWS.tolist()})
    np.testing.assert_allclose(answer["predictions"], wanted, atol=1e-5)
    tensor = {"name": "x", "shape": [2, 16], "datatype": "FP32", "data": ROWS.ravel().tolist()}
    status, answer = mlp_server.post("/invocations", {"inputs": [tensor]})
    assert answer["outputs"][0]["shape"] == [2, 8]


def test_sagemaker_mistakes(mlp_server: Server) -> None:
    def ask(body: bytes, kind: str, accept: str = "*/*") -> tuple[int, str]:
        headers = {"Content-Type": kind, "Accept": accept}
        status, _, answer = mlp_server.request("POST", "/invocations", body, headers)
        return status, json.loads(answer)["error"]

    assert ask(b"x", "application/xml")[0] == 415
    assert ask(b"a,b\n", "text/csv")[0] == 400
    assert ask(b"", "text/csv")[0] == 400
    assert ask(b"1,2\n1\n", "text/csv")[0] == 400
    assert ask(b"\x93NUMPY", "application/x-npy")[0] == 400
    row = ",".join(["1"] * 16).encode()
    assert ask(row, "text/csv", "image/png")[0] == 406
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    status, error = ask(pickled.getvalue(), "application/x-npy")
    assert status == 400
    assert "pickle" in error.lower() or "Object" in error


def test_sagemaker_starts_the_container_with_serve(tmp_path: Path) -> None:
    from longshore_server import config

    settings = config.parse(["serve"], {"SAGEMAKER_BIND_TO_PORT": str(free_ports(1)[0])})
    assert str(settings.model) == "/opt/ml/model"
    assert settings.http_port != 8080
    assert settings.name == "model"


def test_kserve_style_metadata_of_a_model_with_static_batch(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    directory = models.save(
        tmp_path / "static",
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [1, 3])],
        [("y", TensorProto.FLOAT, [1, 3])],
    )
    with Server(directory) as server:
        assert server.get("/v2/models/static/config")[1]["max_batch_size"] == 0
        assert server.post("/v1/models/static:predict", {"instances": [[-1, 0, 1]]})[1] == {
            "predictions": [[0, 0, 1]]
        }
        status, answer = server.post("/v1/models/static:predict", {"instances": [[-1, 0, 1]] * 2})
        assert status == 400
        assert "[1, 3]" in answer["error"]
