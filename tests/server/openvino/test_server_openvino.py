"""The server on OpenVINO's execution provider answers as it does on the CPU's, within the same limits."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.server import models
from tests.server.harness import Server, failed_start
from tests.server.test_server_telemetry import can_trace

OPENVINO = ("--provider", "openvino,cpu")
ROWS = np.random.default_rng(3).random((5, 16), np.float32)


def convolutions(directory: Path) -> Path:
    """x [N, 16] -> y [N, 6], by way of an image of 4 by 4."""
    generator = np.random.default_rng(4)
    return models.save(
        directory,
        [
            helper.make_node("Reshape", ["x", "shape"], ["image"]),
            helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["N", 16])],
        [("y", TensorProto.FLOAT, ["N", 6])],
        {
            "shape": np.array([-1, 1, 4, 4], np.int64),
            "w": generator.standard_normal((6, 1, 3, 3)).astype(np.float32),
        },
    )


def quantized(directory: Path) -> Path:
    """x [N, 16] -> y [N, 8] in 8 bits, by pairs of QuantizeLinear and DequantizeLinear."""
    weights = np.random.default_rng(5).integers(-128, 128, (16, 8)).astype(np.int8)
    return models.save(
        directory,
        [
            helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["qx"]),
            helper.make_node("DequantizeLinear", ["qx", "sx", "zx"], ["dx"]),
            helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["dw"], axis=1),
            helper.make_node("MatMul", ["dx", "dw"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["N", 16])],
        [("y", TensorProto.FLOAT, ["N", 8])],
        {
            "w": weights,
            "sx": np.float32(1 / 255),
            "zx": np.uint8(0),
            "sw": np.full(8, 0.01, np.float32),
            "zw": np.zeros(8, np.int8),
        },
    )


def labels(directory: Path) -> Path:
    """x [N, 16] -> label STRING [N]: the last operator is none of OpenVINO's."""
    return models.save(
        directory,
        [
            helper.make_node("MatMul", ["x", "w"], ["g"]),
            helper.make_node("ArgMax", ["g"], ["i"], axis=1, keepdims=0),
            helper.make_node("Gather", ["names", "i"], ["label"]),
        ],
        [("x", TensorProto.FLOAT, ["N", 16])],
        [("label", TensorProto.STRING, ["N"])],
        {
            "w": np.random.default_rng(6).standard_normal((16, 3)).astype(np.float32),
            "names": np.array(["cat", "dog", "bird"], object),
        },
    )


def ask(server: Server, array: Any, datatype: str = "FP32") -> tuple[int, Any]:
    tensor = {"name": "x", "shape": array.shape, "datatype": datatype, "data": array.ravel().tolist()}
    return server.infer({"inputs": [tensor]})


def ended(server: Server) -> list[dict[str, Any]]:
    """What a server has logged, once it has ended."""
    server.process.send_signal(signal.SIGTERM)
    lines = server.process.communicate(timeout=30)[1].splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("build", [models.mlp, convolutions, quantized], ids=lambda build: build.__name__)
def test_the_answers_are_those_of_the_cpu(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    model = build(tmp_path / "m")
    wanted = ort.InferenceSession(model / "model.onnx").run(None, {"x": ROWS})[0]
    with Server(model, *OPENVINO) as server:
        for rows in (1, 3, 5):
            status, answer = ask(server, ROWS[:rows])
            assert status == 200, answer
            got = np.reshape(answer["outputs"][0]["data"], wanted[:rows].shape)
            np.testing.assert_allclose(got, wanted[:rows], rtol=1e-4, atol=1e-5)
        assert server.get("/v2/models/m/config")[1]["max_batch_size"] > 1
        placed = next(line for line in ended(server) if line["message"] == "placed")
    assert placed["operators"].keys() == {"openvino"}


def test_operators_that_it_lacks_run_on_the_cpu(tmp_path: Path) -> None:
    model = labels(tmp_path / "m")
    wanted = ort.InferenceSession(model / "model.onnx").run(None, {"x": ROWS})[0]
    with Server(model, *OPENVINO) as server:
        assert ask(server, ROWS)[1]["outputs"][0]["data"] == wanted.tolist()
        placed = next(line for line in ended(server) if line["message"] == "placed")
    assert placed["operators"]["openvino"] > 0
    assert placed["operators"]["cpu"] > 0


def test_a_model_of_which_it_runs_nothing_is_served_with_a_warning(tmp_path: Path) -> None:
    with Server(models.identity(tmp_path / "m", TensorProto.STRING), *OPENVINO) as server:
        status, answer = ask(server, np.array([["a", "b"]], object), "BYTES")
        assert (status, answer["outputs"][0]["data"]) == (200, ["a", "b"])
        warned = [line["message"] for line in ended(server) if line["level"] == "warning"]
    assert "no operator of the model runs on openvino" in warned[0]


def test_values_that_it_would_cut_come_back_whole(tmp_path: Path) -> None:
    with Server(models.identity(tmp_path / "m", TensorProto.INT64), *OPENVINO) as server:
        for value in (2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**62):
            status, answer = ask(server, np.array([[1, value]]), "INT64")
            assert (status, answer["outputs"][0]["data"]) == (200, [1, value])


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_shape_that_it_fails_on_spoils_no_other_answer(tmp_path: Path, threads: str) -> None:
    """OpenVINO itself goes on failing, or gives an earlier answer again."""
    model = models.save(
        tmp_path / "m",
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        [("y", TensorProto.FLOAT, ["N", 6])],
        {"w": np.random.default_rng(4).standard_normal((6, 1, 5, 5)).astype(np.float32)},
    )
    reference = ort.InferenceSession(model / "model.onnx")
    generator = np.random.default_rng(7)
    with Server(model, *OPENVINO, "--threads", threads) as server:
        for size in (8, 2, 8, 8, 0, 8, 2, 2, 0, 8, 12):
            image = generator.random((1, 1, size, size), np.float32)
            status, answer = ask(server, image)
            if size < 5:
                assert status in (400, 500)
                continue
            assert status == 200, answer
            wanted = reference.run(None, {"x": image})[0]
            np.testing.assert_allclose([answer["outputs"][0]["data"]], wanted, rtol=1e-4, atol=1e-5)


def test_its_threads_are_as_many_as_asked_for_and_on_no_processor_of_their_own(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "m", (16, 512, 512, 8))
    count: dict[int, int] = {}
    for threads in (1, 2, 6):
        with Server(model, *OPENVINO, "--threads", str(threads)) as server:
            assert ask(server, ROWS)[0] == 200
            tasks = [int(task) for task in os.listdir(f"/proc/{server.process.pid}/task")]
            count[threads] = len(tasks)
            allowed = os.sched_getaffinity(server.process.pid)
            assert [os.sched_getaffinity(task) for task in tasks] == [allowed] * len(tasks)
    assert count[1] < len(os.sched_getaffinity(0)) + 4
    assert count[1] <= count[2] <= count[6]


def test_the_variable_of_the_image_gives_way_to_the_flag(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "m")
    image = {"LONGSHORE_SERVER_PROVIDER": "openvino,cpu"}
    for flags, wanted in (((), "openvino,cpu"), (("--provider", "cpu"), "cpu")):
        with Server(model, *flags, environment=image) as server:
            info = next(name for name in server.metrics() if name.startswith("longshore_model_info"))
            assert re.search(r'provider="([^"]*)"', info)[1] == wanted  # type: ignore[index]


def test_another_provider_is_named_as_absent(tmp_path: Path) -> None:
    code, line = failed_start(models.mlp(tmp_path / "m"), "--provider", "cuda,cpu")
    assert code == 69
    assert "this ONNX Runtime has only cpu, openvino" in line


def test_several_workers_answer(tmp_path: Path) -> None:
    with Server(models.mlp(tmp_path / "m"), *OPENVINO, "--workers", "2") as server:
        assert [ask(server, ROWS)[0] for _ in range(6)] == [200] * 6


@pytest.mark.skipif(not can_trace(), reason="strace cannot trace here")
def test_it_connects_to_nobody(tmp_path: Path) -> None:
    log = tmp_path / "trace"
    prefix = ("strace", "-D", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(log))
    with Server(models.mlp(tmp_path / "m"), *OPENVINO, prefix=prefix) as server:
        assert ask(server, ROWS)[0] == 200
    assert [line for line in log.read_text().splitlines() if "AF_INET" in line] == []
