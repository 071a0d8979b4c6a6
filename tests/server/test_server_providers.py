"""What ONNX Runtime is asked for, provider by provider; `make test-openvino` runs OpenVINO itself."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from longshore_server import loading, providers, session
from longshore_server.artifact import locate
from longshore_server.errors import GrpcStatus, RequestError, StartupError
from longshore_server.guarded import GuardedSession, open_session
from longshore_server.session import Session, SessionOptions
from onnx import TensorProto

from tests.server import models

RUNTIME = ort.InferenceSession
BOTH = SessionOptions(("openvino", "cpu"), 3)


class Recorded:
    """Stands in for a runtime that has OpenVINO: takes its options, and runs on the CPU."""

    def __init__(self, fails: str = "", starts: bool = True) -> None:
        self.asked: dict[str, Any] = {}
        self.fails, self.starts = fails, starts

    def __call__(self, file: str, settings: Any, **keywords: Any) -> Any:
        self.asked = keywords
        if self.fails:
            raise RuntimeError(self.fails)
        real = RUNTIME(file, settings, providers=["CPUExecutionProvider"])
        found = [*(keywords["providers"] if self.starts else []), "CPUExecutionProvider"]
        real.get_providers = lambda: found
        return real


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    runtime = Recorded()
    available = ["OpenVINOExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "InferenceSession", runtime)
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: available)
    return runtime


def test_openvino_gets_the_threads_and_the_precision_of_the_cpu(tmp_path: Path, recorded: Recorded) -> None:
    Session(models.mlp(tmp_path) / "model.onnx", BOTH)
    assert recorded.asked["providers"] == ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    first, second = recorded.asked["provider_options"]
    properties = json.loads(first["load_config"])["CPU"]
    assert first["device_type"] == "CPU"
    assert properties["INFERENCE_NUM_THREADS"] == "3"
    assert properties["INFERENCE_PRECISION_HINT"] == "f32"
    assert properties["ENABLE_CPU_PINNING"] == "NO"
    assert second == {}


def test_the_runtime_may_not_fall_back_by_itself(tmp_path: Path, recorded: Recorded) -> None:
    recorded.fails = "Exception while Loading Network"
    with pytest.raises(StartupError, match="Exception while Loading Network") as caught:
        Session(models.mlp(tmp_path) / "model.onnx", BOTH)
    assert caught.value.exit_code == 65
    assert recorded.asked["enable_fallback"] is False


def test_a_provider_without_its_device_is_an_error(tmp_path: Path, recorded: Recorded) -> None:
    recorded.starts = False
    with pytest.raises(StartupError, match="did not start") as caught:
        Session(models.mlp(tmp_path) / "model.onnx", BOTH)
    assert caught.value.exit_code == 69


def test_tensorrt_without_its_libraries_is_no_fault_of_the_model(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are those of onnxruntime-gpu 1.31.1 on a machine without libnvinfer."""
    available = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: available)
    monkeypatch.setattr(session.ort, "preload_dlls", lambda: None)
    recorded.fails = (
        "void onnxruntime::python::RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, ProviderOptions&) "
        "Please install TensorRT libraries as mentioned in the GPU requirements page"
    )
    with pytest.raises(StartupError, match="TensorrtExecutionProvider is installed but did not") as caught:
        Session(models.mlp(tmp_path) / "model.onnx", SessionOptions(("tensorrt", "cpu"), 1))
    assert caught.value.exit_code == 69


def test_what_hinders_cuda_is_logged(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session.ort, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
    Session(models.mlp(tmp_path) / "model.onnx", SessionOptions(("cuda", "cpu"), 1))
    assert "Failed to load libcudnn.so.9" in caplog.text
    assert recorded.asked["provider_options"] == [{}, {}]


def test_a_provider_that_runs_nothing_is_told(
    tmp_path: Path, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    loading.load(locate(models.mlp(tmp_path)), BOTH, "auto", 8, lambda rows: None)
    assert "no operator of the model runs on openvino" in caplog.text


def test_the_cpu_alone_is_asked_for_nothing(tmp_path: Path) -> None:
    assert Session(models.mlp(tmp_path) / "model.onnx", SessionOptions()).operators == {}
    assert providers.options("cpu", 2) == {}


class Moody:
    """Gives sessions in place of OpenVINO's: real ones on the CPU that count runs, and fail when told to."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, ...]] = []
        self.runs = {"openvino": 0, "cpu": 0}
        self.fails = False

    def __call__(self, file: Path, options: SessionOptions) -> Session:
        name = options.providers[0]
        self.loaded.append(options.providers)
        real = Session(file, SessionOptions())
        run = real.run

        def moody(inputs: Any) -> Any:
            self.runs[name] += 1
            if name == "openvino" and self.fails:
                raise RequestError(500, GrpcStatus.INTERNAL, "Convolution node failed")
            return run(inputs)

        real.run = moody  # type: ignore[method-assign]
        return real


def guarded(file: Path, moody: Moody) -> GuardedSession:
    return GuardedSession(file, BOTH, moody(file, BOTH), moody)


def test_what_openvino_fails_on_the_cpu_answers_until_it_is_loaded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    moody = Moody()
    one = guarded(models.mlp(tmp_path) / "model.onnx", moody)
    rows = [np.ones((2, 16), np.float32)]
    wanted = one.run(rows)[0]
    moody.fails = True
    assert np.array_equal(one.run(rows)[0], wanted)
    assert "Convolution node failed" in caplog.text
    moody.fails = False
    assert np.array_equal(one.run(rows)[0], wanted)
    assert moody.loaded == [BOTH.providers, ("cpu",), BOTH.providers]  # the state after a failure is not used
    assert moody.runs == {"openvino": 3, "cpu": 1}


def test_failures_do_not_make_it_load_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))  # each look at the clock is a second later: loading takes one
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    moody = Moody()
    one = guarded(models.mlp(tmp_path) / "model.onnx", moody)
    moody.fails = True
    for _ in range(100):
        assert one.run([np.ones((1, 16), np.float32)])[0].shape == (1, 8)
    assert moody.runs["cpu"] == 100
    assert 3 <= moody.loaded.count(BOTH.providers) <= 8


def test_values_that_openvino_would_cut_are_run_on_the_cpu(tmp_path: Path) -> None:
    moody = Moody()
    one = guarded(models.identity(tmp_path, TensorProto.INT64) / "model.onnx", moody)
    one.run([np.array([[2**31 - 1, -(2**31)]], np.int64)])
    assert moody.runs == {"openvino": 1, "cpu": 0}
    for wide in (2**31, -(2**31) - 1, 2**62):
        assert one.run([np.array([[1, wide]], np.int64)])[0].tolist() == [[1, wide]]
    assert one.run([np.zeros((0, 2), np.int64)])[0].shape == (0, 2)
    assert moody.runs == {"openvino": 1, "cpu": 4}


def test_only_what_openvino_runs_is_guarded(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = models.mlp(tmp_path) / "model.onnx"
    assert isinstance(open_session(file, SessionOptions()), Session)
    assert isinstance(open_session(file, BOTH), Session)  # all of it is on the CPU
    monkeypatch.setattr(session, "_placement", lambda *_: {"openvino": 1})
    assert isinstance(open_session(file, BOTH), GuardedSession)
