"""Open Inference Protocol V2 over REST, as a client sees it."""

import json
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.server.harness import Server

ROW = [0.5, -1.0, 2.0, 0.25] * 4


def tensor(data: Any = None, shape: Any = None, **changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": shape or [1, 16], "datatype": "FP32", "data": data or ROW} | changes


def expected(server: Server, array: Any) -> Any:
    session = ort.InferenceSession(server.model / "model.onnx")
    return session.run(None, {"x": np.asarray(array, np.float32)})[0]


def binary(server: Server, document: dict[str, Any], raw: bytes) -> tuple[int, dict[str, str], bytes]:
    text = json.dumps(document).encode()
    return server.request(
        "POST",
        f"/v2/models/{server.name}/infer",
        text + raw,
        {"Inference-Header-Content-Length": str(len(text))},
    )


def test_metadata(mlp_server: Server) -> None:
    assert mlp_server.get("/v2/health/live") == (200, {"live": True})
    assert mlp_server.get("/v2/health/ready")[0] == 200
    assert mlp_server.get("/v2")[1]["name"] == "longshore-server"
    assert mlp_server.get("/v2/models/mlp") == (
        200,
        {
            "name": "mlp",
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 8]}],
        },
    )
    for path in ("/v2/models/mlp/ready", "/v2/models/mlp/versions/1", "/v2/models/mlp/config", "/ping"):
        assert mlp_server.get(path)[0] == 200
    assert mlp_server.post("/v2/repository/index", {}) == (
        200,
        [{"name": "mlp", "version": "1", "state": "READY", "reason": ""}],
    )


def test_infer_with_json(mlp_server: Server) -> None:
    status, answer = mlp_server.infer({"id": "seven", "inputs": [tensor()]})
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("mlp", "1", "seven")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [1, 8])
    np.testing.assert_allclose(output["data"], expected(mlp_server, [ROW])[0], atol=1e-5)


def test_fields_of_other_servers_are_passed_over(mlp_server: Server) -> None:
    plain = mlp_server.infer({"inputs": [tensor()]})
    assert mlp_server.infer({"inputs": [tensor()], "model_name": "mlp", "model_version": None}) == plain


def test_nested_and_flat_data_mean_the_same(mlp_server: Server) -> None:
    flat = mlp_server.infer({"inputs": [tensor(ROW * 2, [2, 16])]})
    nested = mlp_server.infer({"inputs": [tensor([ROW, ROW], [2, 16])]})
    assert flat == nested
    assert flat[1]["outputs"][0]["shape"] == [2, 8]


def test_infer_with_binary_in_and_out(mlp_server: Server) -> None:
    array = np.random.default_rng(3).random((3, 16), np.float32)
    status, headers, body = binary(
        mlp_server,
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [3, 16],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": array.nbytes},
                }
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        },
        array.tobytes(),
    )
    assert status == 200
    length = int(headers["inference-header-content-length"])
    answer = json.loads(body[:length])
    assert answer["outputs"][0]["parameters"]["binary_data_size"] == len(body) - length
    got = np.frombuffer(body[length:], np.float32).reshape(3, 8)
    np.testing.assert_allclose(got, expected(mlp_server, array), atol=1e-5)


def test_several_inputs_in_any_order_some_binary(two_inputs_server: Server) -> None:
    b = np.array([[1, 2, 3, 4]], np.int64)
    document = {
        "inputs": [
            {"name": "b", "shape": [1, 4], "datatype": "INT64", "parameters": {"binary_data_size": b.nbytes}},
            {"name": "a", "shape": [1, 4], "datatype": "FP32", "data": [0.5, 0.5, 0.5, 0.5]},
        ],
        "outputs": [{"name": "twice"}, {"name": "total", "parameters": {"binary_data": True}}],
    }
    status, headers, body = binary(two_inputs_server, document, b.tobytes())
    assert status == 200
    length = int(headers["inference-header-content-length"])
    twice, total = json.loads(body[:length])["outputs"]
    assert twice["data"] == [2, 4, 6, 8]
    assert total["name"] == "total"
    np.testing.assert_array_equal(np.frombuffer(body[length:], np.float32), [1.5, 2.5, 3.5, 4.5])


def test_strings_in_json_and_binary(strings_server: Server) -> None:
    words = ["né", "", "a" * 300, "日本"]
    status, answer = strings_server.infer(
        {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "BYTES", "data": words}]}
    )
    assert (status, answer["outputs"][0]["data"]) == (200, words)
    raw = b"".join(len(word.encode()).to_bytes(4, "little") + word.encode() for word in words)
    document = {
        "inputs": [
            {"name": "x", "shape": [2, 2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
        ],
        "parameters": {"binary_data_output": True},
    }
    status, headers, body = binary(strings_server, document, raw)
    assert status == 200
    assert body[int(headers["inference-header-content-length"]) :] == raw
    document["inputs"][0]["parameters"]["binary_data_size"] = len(raw) - 1
    assert binary(strings_server, document, raw[:-1])[0] == 400


def test_classification(mlp_server: Server) -> None:
    status, answer = mlp_server.infer(
        {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}
    )
    assert status == 200
    output = answer["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    scores = expected(mlp_server, [ROW])[0]
    best = np.argsort(-scores)[:2]
    assert [int(label.split(":")[1]) for label in output["data"]] == best.tolist()
    np.testing.assert_allclose(
        [float(label.split(":")[0]) for label in output["data"]], scores[best], atol=1e-4
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "no inputs"),
        ({"inputs": []}, "no inputs"),
        ({"inputs": [tensor(name="z")]}, "x (FP32, [-1, 16])"),
        ({"inputs": [tensor(datatype="FP64")]}, "wants FP32"),
        ({"inputs": [tensor(datatype="FLOAT")]}, "use one of"),
        ({"inputs": [tensor(shape=[16])]}, "the model wants [-1, 16]"),
        ({"inputs": [tensor(shape=[1, 15], data=[1] * 15)]}, "the model wants [-1, 16]"),
        ({"inputs": [tensor(shape=[-1, 16])]}, "the model wants [-1, 16]"),
        ({"inputs": [tensor(shape=[1, True])]}, "no shape"),
        ({"inputs": [tensor(data=ROW[:-1])]}, "15 values"),
        ({"inputs": [tensor(data=["a"] * 16)]}, "no FP32"),
        ({"inputs": [tensor(data=[[1.0], 2.0])]}, "no FP32"),
        ({"inputs": [tensor(), tensor()]}, "twice"),
        ({"inputs": [tensor()], "outputs": [{"name": "q"}]}, "y (FP32, [-1, 8])"),
        ({"inputs": [tensor()], "parameters": {"timeout": "soon"}}, "microseconds"),
        ({"inputs": [{k: v for k, v in tensor().items() if k != "data"}]}, "no data"),
        ({"inputs": [tensor(parameters={"binary_data_size": 64})]}, "binary_data_size"),
        ({"inputs": {"x": 1}}, "no inputs"),
        ([1, 2], "JSON object"),
    ],
)
def test_mistakes_are_explained(mlp_server: Server, document: Any, words: str) -> None:
    status, answer = mlp_server.infer(document)
    assert status == 400
    assert words in answer["error"]


def test_binary_mistakes_are_explained(mlp_server: Server) -> None:
    def ask(size: int, shape: list[int], raw: bytes) -> tuple[int, str]:
        one = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}}
        status, _, body = binary(mlp_server, {"inputs": [one]}, raw)
        return status, json.loads(body)["error"]

    assert ask(60, [1, 16], bytes(60)) == (
        400,
        "input 'x' has 60 bytes, its shape [1, 16] of FP32 wants 64",
    )
    assert "the body has 60 left" in ask(64, [1, 16], bytes(60))[1]
    assert "the request says 64" in ask(64, [1, 16], bytes(70))[1]
    status, _, body = mlp_server.request(
        "POST", "/v2/models/mlp/infer", b"{}", {"Inference-Header-Content-Length": "9"}
    )
    assert (status, "whole body has 2" in json.loads(body)["error"]) == (400, True)


def test_paths_and_methods(mlp_server: Server) -> None:
    assert mlp_server.get("/v2/models/other")[0] == 404
    assert mlp_server.get("/v2/models/mlp/versions/2")[0] == 404
    assert mlp_server.get("/nothing")[0] == 404
    assert mlp_server.get("/v2/models/mlp/infer")[0] == 405
    assert mlp_server.post("/v2/repository/models/mlp/unload", {})[0] == 501
    status, _, body = mlp_server.request("POST", "/v2/models/mlp/infer", b"{nope")
    assert (status, "no JSON" in json.loads(body)["error"]) == (400, True)


def test_metrics_count_what_happened(mlp_server: Server) -> None:
    labels = '{model="mlp",version="1"}'
    before = mlp_server.metrics()
    for _ in range(3):
        mlp_server.infer({"inputs": [tensor(ROW * 2, [2, 16])]})
    mlp_server.infer({"inputs": []})
    after = mlp_server.metrics()

    def grown(name: str) -> float:
        return after[name] - before[name]

    assert grown(f"nv_inference_request_success{labels}") == 3
    assert grown(f"nv_inference_count{labels}") == 6
    assert grown(f"nv_inference_exec_count{labels}") == 3
    assert grown('nv_inference_request_failure{model="mlp",version="1",reason="OTHER"}') == 1
    assert grown(f"longshore_requests_total{labels}") == 4
    assert grown(f"longshore_requests_refused_total{labels}") == 1
    assert grown(f"longshore_requests_failed_total{labels}") == 0
    assert grown(f"nv_inference_compute_infer_duration_us{labels}") > 0
    assert grown(f"longshore_request_seconds_count{labels}") == 3
    assert grown(f"longshore_batch_size_sum{labels}") == 6
    statistics = mlp_server.get("/v2/models/mlp/stats")[1]["model_stats"][0]
    assert statistics["inference_count"] >= 6
    assert statistics["inference_stats"]["success"]["count"] >= 3


def test_the_exposition_is_read_by_prometheus_own_parser(mlp_server: Server) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    _, headers, body = mlp_server.request("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families["longshore_request_seconds"].type == "histogram"
    assert families["nv_inference_pending_request_count"].type == "gauge"


def test_compression_both_ways(mlp_server: Server) -> None:
    import gzip
    import zlib

    document = json.dumps({"inputs": [tensor(ROW * 64, [64, 16])]}).encode()
    plain = mlp_server.request("POST", "/v2/models/mlp/infer", document)[2]
    for coding, encode, decode in (
        ("gzip", gzip.compress, gzip.decompress),
        ("deflate", zlib.compress, zlib.decompress),
    ):
        status, headers, body = mlp_server.request(
            "POST",
            "/v2/models/mlp/infer",
            encode(document),
            {"Content-Encoding": coding, "Accept-Encoding": coding},
        )
        assert (status, headers["content-encoding"]) == (200, coding)
        assert decode(body) == plain
    status, _, body = mlp_server.request(
        "POST", "/v2/models/mlp/infer", document, {"Content-Encoding": "gzip"}
    )
    assert (status, "no gzip data" in json.loads(body)["error"]) == (400, True)
    assert mlp_server.request("POST", "/v2/models/mlp/infer", document, {"Content-Encoding": "br"})[0] == 415
