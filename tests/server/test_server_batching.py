"""When requests run together, and when not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from longshore_server.cost import CostModel
from onnx import TensorProto, helper

from tests.server import models
from tests.server.inprocess import InProcess, Transport


def ask(name: str, rows: int, columns: int, value: float) -> bytes:
    tensor = {"name": "x", "shape": [rows, columns], "datatype": "FP32", "data": [value] * (rows * columns)}
    body = json.dumps({"inputs": [tensor]}).encode()
    return b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (
        name.encode(),
        len(body),
        body,
    )


async def together(model: Path, asks: list[bytes]) -> tuple[list[Any], dict[str, float]]:
    """Answers to requests that arrive in one turn of the loop, and the counters after them."""
    server = InProcess(model)
    transports = []
    for one in asks:
        connection, transport = server.http(), Transport()
        connection.connection_made(transport)
        server.http_feed(connection, transport, one)
        transports.append(transport)
    await server.settle()
    await server.settle()
    server.batcher.close()
    answers = [json.loads(bytes(transport.written).partition(b"\r\n\r\n")[2]) for transport in transports]
    lines = [line for line in server.metrics.exposition().decode().splitlines() if line[0] != "#"]
    return answers, {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines)}


async def test_one_turn_runs_together_and_each_gets_its_rows(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "m", TensorProto.FLOAT, ("N", 2))
    answers, counters = await together(model, [ask("m", rows, 2, rows + 0.5) for rows in (1, 2, 3)])
    for rows, answer in zip((1, 2, 3), answers, strict=True):
        assert answer["outputs"][0]["shape"] == [rows, 2]
        assert answer["outputs"][0]["data"] == [rows + 0.5] * (2 * rows)
    assert counters["nv_inference_exec_count"] == 1
    assert counters["nv_inference_count"] == 6


async def test_ragged_requests_are_never_mixed(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "m", TensorProto.FLOAT, ("N", "M"))
    answers, counters = await together(model, [ask("m", 1, columns, columns) for columns in (2, 3, 2, 3)])
    assert [answer["outputs"][0]["data"] for answer in answers] == [[2, 2], [3, 3, 3], [2, 2], [3, 3, 3]]
    assert counters["nv_inference_exec_count"] == 2


async def test_a_model_whose_rows_meet_runs_one_by_one(tmp_path: Path) -> None:
    model = models.whole_batch_mean(tmp_path / "m")
    answers, counters = await together(model, [ask("m", 1, 4, value) for value in (1, 5)])
    assert [answer["outputs"][0]["data"] for answer in answers] == [[0] * 4, [0] * 4]
    assert counters["nv_inference_exec_count"] == 2


async def test_one_request_that_fails_leaves_the_others_their_answers(tmp_path: Path) -> None:
    model = models.save(
        tmp_path / "m",
        [
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "i"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["N", 1])],
        [("y", TensorProto.FLOAT, ["N", 1])],
        {"table": np.array([10, 20], np.float32)},
    )
    answers, counters = await together(model, [ask("m", 1, 1, value) for value in (0, 99, 1)])
    assert answers[0]["outputs"][0]["data"] == [10]
    assert "error" in answers[1]
    assert answers[2]["outputs"][0]["data"] == [20]
    assert counters["nv_inference_request_success"] == 2


async def test_work_whose_own_timeout_has_passed_is_not_run(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "m", TensorProto.FLOAT, ("N", 2))
    late = ask("m", 1, 2, 1).partition(b"\r\n\r\n")[2]
    body = json.dumps(json.loads(late) | {"parameters": {"timeout": 1}}).encode()
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    answers, counters = await together(model, [head + body, ask("m", 1, 2, 3)])
    assert "deadline" in answers[0]["error"]
    assert answers[1]["outputs"][0]["data"] == [3, 3]
    assert counters["nv_inference_count"] == 1
    assert counters['nv_inference_request_failure{reason="CANCELED"}'] == 1


class TestCost:
    def test_fixed_and_per_row_are_told_apart(self) -> None:
        cost = CostModel()
        for rows in (1, 8, 64, 16, 2):
            cost.observe(rows, 0.010 + 0.001 * rows)
        assert cost.fixed == pytest.approx(0.010, rel=0.01)
        assert cost.per_row == pytest.approx(0.001, rel=0.01)

    def test_batches_keep_to_half_the_objective(self) -> None:
        cost = CostModel(0.010, 0.001)
        assert cost.best_rows(0.1, 64) == 40
        assert cost.best_rows(10, 64) == 64

    def test_a_slow_model_is_still_joined_up_to_twice_its_time(self) -> None:
        assert CostModel(1.0, 0.01).best_rows(0.1, 64) == 64
        assert CostModel(0.5, 0.5).best_rows(0.1, 64) == 3

    def test_rows_that_gain_nothing_together_run_alone(self) -> None:
        assert CostModel(0.0, 0.01).best_rows(10, 64) == 1

    def test_one_pause_of_the_machine_is_not_believed(self) -> None:
        cost = CostModel()
        for _ in range(50):
            cost.observe(1, 0.001)
        cost.observe(1, 10.0)
        assert cost.predict(1) < 0.002
