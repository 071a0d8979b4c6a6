"""Served predictions of real models equal ONNX Runtime's own on the same input."""

import json

import numpy as np
import onnxruntime as ort
import pytest

from tests.realmodels import rapidocr_model
from tests.server.harness import Server

CASES = [
    ("PP-OCRv6_rec_small.onnx", [(1, 3, 48, 320), (2, 3, 48, 160), (1, 3, 48, 97)]),
    ("ch_ppocr_mobile_v2.0_cls_mobile.onnx", [(1, 3, 48, 192), (4, 3, 48, 192)]),
    ("PP-OCRv6_det_small.onnx", [(1, 3, 96, 160)]),
]


@pytest.mark.parametrize(("file", "shapes"), CASES, ids=[case[0] for case in CASES])
def test_predictions_are_the_runtime_s_own(file: str, shapes: list[tuple[int, ...]]) -> None:
    path = rapidocr_model(file)
    session = ort.InferenceSession(path)
    name = session.get_inputs()[0].name
    with Server(path, "--name", "ocr") as server:
        for shape in shapes:
            array = np.random.default_rng(5).random(shape, np.float32)
            text = json.dumps(
                {
                    "inputs": [
                        {
                            "name": name,
                            "shape": shape,
                            "datatype": "FP32",
                            "parameters": {"binary_data_size": array.nbytes},
                        }
                    ],
                    "parameters": {"binary_data_output": True},
                }
            ).encode()
            status, headers, body = server.request(
                "POST",
                "/v2/models/ocr/infer",
                text + array.tobytes(),
                {"Inference-Header-Content-Length": str(len(text))},
            )
            assert status == 200, body
            length = int(headers["inference-header-content-length"])
            output = json.loads(body[:length])["outputs"][0]
            wanted = session.run(None, {name: array})[0]
            got = np.frombuffer(body[length:], np.float32).reshape(output["shape"])
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_shape_that_the_model_cannot_run_is_an_error_and_not_the_end() -> None:
    with Server(rapidocr_model("ch_ppocr_mobile_v2.0_cls_mobile.onnx"), "--name", "cls") as server:
        bad = {"name": "x", "shape": [1, 3, 0, 0], "datatype": "FP32", "data": []}
        status, answer = server.post("/v2/models/cls/infer", {"inputs": [bad]})
        assert status in (400, 500)
        assert "model" in answer["error"]
        good = {"name": "x", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [0.5] * 3072}
        assert server.post("/v2/models/cls/infer", {"inputs": [good]})[0] == 200
