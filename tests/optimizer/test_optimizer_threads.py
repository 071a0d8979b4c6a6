"""Models are timed with the threads that the server gives them."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from longshore_optimizer.decide import Latency
from longshore_optimizer.measure import latency, threads
from longshore_optimizer.measure.in_process import open_as_served
from longshore_optimizer.measure.process import Cores, WorkerProcess
from longshore_optimizer.measure.workers import Workers
from longshore_server.sizing import Measured, Sizing, choose
from onnx import helper

from tests.optimizer.technique_bench import digits_cnn

SMALL, LARGE = 1 << 20, 600 << 20


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("available", [1, 2, 4])
@pytest.mark.parametrize(
    ("one", "every"),
    [
        (0.0001, 0.0001),
        (0.004, 0.001),
        (0.006, 0.001),
        (0.006, 0.005),
        (0.004, 0.0035),
        (0.004, 0.0041),
        (0.1, 0.08),
        (1, 0.5),
    ],
)
def test_the_rule_is_the_servers(size: int, available: int, one: float, every: float) -> None:
    # The server measures only where a measurement can change its choice.
    measured = Measured(one, every) if size < LARGE else None

    def run(count: int) -> float:
        return one if count == 1 else every

    served = choose(available, size, None, measured, Sizing(0, 0)).threads
    assert threads.served(available, size, run, threads.rule()) == served
    for original in {1, available}:
        # What was made of a model that got so many threads.
        made = choose(available, size, None, measured, Sizing(0, 0), original).threads
        assert threads.served(available, size, run, threads.rule(original)) == made


def test_one_busy_moment_takes_no_threads_away() -> None:
    runs = {1: [0.01], 4: [0.02, 0.004]}
    assert threads.served(4, SMALL, lambda count: runs[count].pop(0), threads.rule()) == 4


def _products(path: Path, layers: int) -> Path:
    weight = np.full((512, 512), 1 / 512, np.float32)
    names = ["x", *(f"y{n}" for n in range(1, layers)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 128, 512]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_candidates_keep_the_threads_of_their_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = _products(tmp_path / "large.onnx", 60), _products(tmp_path / "small.onnx", 1)
    data = tmp_path / "data.npz"
    np.savez(data, x=np.ones((1, 128, 512), np.float32))
    monkeypatch.setattr(threads, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(threads, "KEEPING_GAIN", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", 1)
    cores = tuple(sorted(os.sched_getaffinity(0))[:2])

    def timed(**models: Path) -> dict[str, int | None]:
        with Workers(Cores(2, cores, 2.0)) as workers:
            measured = latency.time_models(models, "original", data, workers)
        return {name: v.threads for name, v in measured.items() if isinstance(v, Latency)}

    assert timed(candidate=small, original=large) == {"candidate": 2, "original": 2}
    assert timed(candidate=large, original=small) == {"candidate": 2, "original": 1}


def test_a_measurement_that_cannot_change_the_choice_is_not_made() -> None:
    asked: list[int] = []

    def run(count: int) -> float:
        asked.append(count)
        return 0.001

    assert threads.served(1, SMALL, run, threads.rule()) == 1
    assert threads.served(4, LARGE, run, threads.rule()) == 4
    assert asked == []
    assert threads.served(4, SMALL, run, threads.rule()) == 1
    assert asked == [1]


@pytest.mark.parametrize(
    ("small", "gain", "asked"), [(5.0, 1.3, [1]), (0.0, 0.0, [1, 2]), (0.0, 1e9, [1, 2, 1])]
)
def test_a_model_is_timed_with_the_threads_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: float, gain: float, asked: list[int]
) -> None:
    model, calibration, _ = digits_cnn(tmp_path)
    loads: list[int] = []
    ask = WorkerProcess.ask

    def recorded(worker: Any, *answer: Any, **request: Any) -> Any:
        if request["operation"] == "load":
            loads.append(request["threads"])
        return ask(worker, *answer, **request)

    monkeypatch.setattr(WorkerProcess, "ask", recorded)
    monkeypatch.setattr(threads, "SMALL_RUN_SECONDS", small)
    monkeypatch.setattr(threads, "LEAST_GAIN", gain)
    cores = tuple(sorted(os.sched_getaffinity(0))[:2])
    with Workers(Cores(2, cores, 2.0)) as workers:
        measured = latency.time_models({"original": model}, "original", calibration, workers)
    assert isinstance(measured["original"], Latency)
    assert loads == asked
    with np.load(calibration) as data:
        session = open_as_served(model, 2, [{"x": data["x"][:1]}], threads.rule())
    assert session.get_session_options().intra_op_num_threads == asked[-1]
