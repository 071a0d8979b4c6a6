"""TensorRT engines that the optimizer left: served where all fits, else the ONNX model is, with a reason.

There is no GPU here: `nvidia-smi`, `trtexec`, libnvinfer and Triton's backend `tensorrt` are stand-ins; the
optimizer's export, longshore-triton and tritonserver are real.
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as httpclient
from longshore_optimizer.exports.base import ExportWork
from longshore_optimizer.exports.tensorrt import TensorRt
from longshore_triton import engine, modelconfig
from longshore_triton.engine import Fit
from longshore_triton.repository import Planned, plan_repository
from longshore_triton.wanted import Wanted
from onnx import TensorProto

from tests.optimizer import tensorrt_tools
from tests.server import models
from tests.triton import tensorrt_home
from tests.triton.harness import Triton

FIT = Fit("NVIDIA A10G", "8.6", "550.54.15", "10.9.0", f"linux_{platform.machine()}")
HAS = frozenset({"onnxruntime", "python", "tensorrt"})
ROWS = np.random.default_rng(5).standard_normal((3, 16)).astype(np.float32)


def optimized(artifact: Path) -> Path:
    """Let the optimizer's export leave an engine in an artifact."""
    directory = artifact / engine.DIRECTORY
    directory.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        tools = tensorrt_tools.install(artifact.parent / "builder")
        patch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        sample = {"x": np.zeros((1, 16), np.float32)}
        TensorRt().write(ExportWork(artifact / "model.onnx", directory, 1, sample))
    return artifact


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return optimized(models.mlp(tmp_path_factory.mktemp("made") / "artifact"))


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    """An MLP with the engine that the optimizer made of it."""
    return shutil.copytree(made, tmp_path / "artifact")


def planned(root: Path, has: frozenset[str] = HAS, here: Fit | str = FIT, **wanted: Any) -> Planned:
    asked = Wanted(**{"name": "digits", "gpus": 1, "accelerator": "TensorRT", **wanted})
    (model,) = plan_repository(root, asked, has, frozenset(), lambda: here).models
    return model


def why(model: Planned) -> str:
    """The ONNX model is served as if there were no engine; gives the reason."""
    assert isinstance(model.engine, str)
    assert model.config.backend == "onnxruntime"
    assert [p.name for p in model.versions.values()] == ["artifact"]
    (accelerator,) = model.config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    return model.engine


def test_the_engine_is_described_by_its_model_within_its_batches(artifact: Path) -> None:
    model = planned(artifact, gpus=2, max_batch_size=64)
    config = model.config
    assert (config.name, config.backend) == ("digits", "tensorrt")
    assert [(t.name, list(t.dims)) for t in (*config.input, *config.output)] == [("x", [16]), ("y", [8])]
    assert config.max_batch_size == 32, "no more rows than the engine takes"
    assert config.HasField("dynamic_batching")
    (group,) = config.instance_group
    assert (group.kind, list(group.gpus)) == (modelconfig.kind("GPU"), [0, 1])
    assert [w.batch_size for w in config.model_warmup] == [1]
    assert not config.optimization.execution_accelerators.gpu_execution_accelerator
    assert config.parameters["longshore_engine"].string_value == "TensorRT 10.9.0, NVIDIA A10G"
    assert (model.versions[1] / "model.plan").read_bytes().startswith(tensorrt_tools.HEADER)
    assert planned(artifact, max_batch_size=8).config.max_batch_size == 32


def test_sizes_that_the_engine_may_refuse_are_not_warmed_up(tmp_path: Path) -> None:
    model = planned(optimized(models.identity(tmp_path / "artifact", TensorProto.FLOAT, ("N", "M"))))
    assert model.config.backend == "tensorrt"
    assert not model.config.model_warmup


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"driver": "560.35.03"}, "driver 560.35.03 here and 550.54.15 in the engine"),
        ({"gpu": "NVIDIA L4"}, "GPU NVIDIA L4 here and NVIDIA A10G in the engine"),
        ({"compute_capability": "8.9"}, "compute capability 8.9 here and 8.6 in the engine"),
        ({"tensorrt": "10.13.3"}, "TensorRT 10.13.3 here and 10.9.0 in the engine"),
        ({"platform": "linux_riscv64"}, "platform linux_riscv64 here"),
    ],
)
def test_another_node_gets_the_onnx_model_and_says_what_differs(
    changed: dict[str, str], words: str, artifact: Path
) -> None:
    assert words in why(planned(artifact, here=replace(FIT, **changed)))


def test_an_image_without_the_backend_says_what_it_has(artifact: Path) -> None:
    assert "no backend tensorrt (it has onnxruntime, python)" in why(
        planned(artifact, has=HAS - {"tensorrt"})
    )
    assert why(planned(artifact, here="no GPU is seen here")) == "no GPU is seen here"


def test_without_gpu_or_accelerator_nobody_asks_for_the_engine(artifact: Path) -> None:
    for wanted in ({"gpus": 0, "accelerator": None}, {"accelerator": None}):
        model = planned(artifact, **wanted)
        assert (model.engine, model.config.backend) == (None, "onnxruntime")


def described(text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / "engine.json").write_text(text)


def changed(**values: object) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        file = directory / "engine.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def damaged(directory: Path) -> None:
    (directory / "model.plan").write_bytes(b"something else")


def piped(directory: Path) -> None:
    (directory / "engine.json").unlink()
    os.mkfifo(directory / "engine.json")


def a_directory(directory: Path) -> None:
    (directory / "model.plan").unlink()
    (directory / "model.plan").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "engine.json").unlink(), "the artifact has none: add TensorRT to optimize.exports"),
        (lambda d: (d / "model.plan").unlink(), "cannot be read (No such file"),
        (lambda d: (d / "model.onnx").write_bytes(b"junk"), "cannot be described"),
        (described(""), "is no JSON"),
        (described("[" * 60_000), "is no JSON"),
        (described("[]"), "is no JSON object"),
        (described(json.dumps({"gpu": "x" * 70_000})), "is larger than 65536 bytes"),
        (changed(gpu=7), "has no gpu"),
        (changed(driver="1\n2"), "has no driver"),
        (changed(plan=None), "has no plan"),
        (changed(maxBatch=0), "maxBatch of engine.json is no number from 1"),
        (changed(maxBatch=True), "maxBatch of engine.json"),
        (changed(maxBatch="32"), "maxBatch of engine.json"),
        (damaged, "has not the digest"),
        (piped, "is no file"),
        (a_directory, "is no file"),
    ],
)
def test_a_hostile_description_leaves_the_onnx_model(
    spoil: Callable[[Path], object], words: str, artifact: Path
) -> None:
    spoil(artifact / engine.DIRECTORY)
    assert words in why(planned(artifact))


def test_links_out_of_the_artifact_are_not_followed(artifact: Path, tmp_path: Path) -> None:
    directory = artifact / engine.DIRECTORY
    (directory / "model.plan").rename(tmp_path / "elsewhere")
    (directory / "model.plan").symlink_to(tmp_path / "elsewhere")
    assert engine.read(directory, artifact) == "model.plan of the engine leads out of the artifact"


def test_a_pod_tells_its_gpu_and_the_release_that_its_backend_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = tmp_path / "backends"
    (backends / "tensorrt").mkdir(parents=True)
    tensorrt_home.library(tmp_path, 101303)
    (tmp_path / "libnvinfer.so").rename(tmp_path / "libnvinfer.so.10")
    (backends / "tensorrt" / "libtriton_tensorrt.so").write_bytes(b"\x7fELF\0libnvinfer.so.10\0libc.so.6\0")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert "there is no nvidia-smi" in str(engine.look(backends))
    tensorrt_tools.nvidia_smi(tmp_path / "bin", "No devices were found")
    assert "nvidia-smi says: No devices were found" in str(engine.look(backends))
    tensorrt_tools.nvidia_smi(
        tmp_path / "bin",
        "NVIDIA A100-SXM4-40GB, 8.0, 550.54.15",
        "  MIG 1g.5gb      Device  0: (UUID: MIG-c6)",
    )
    assert engine.look(backends) == Fit(
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "8.0", "550.54.15", "10.13.3", FIT.platform
    )
    (tmp_path / "libnvinfer.so.10").unlink()
    assert "the release of TensorRT cannot be told" in str(engine.look(backends))


@pytest.mark.parametrize(("number", "expected"), [(100900, "10.9.0"), (8601, "8.6.1"), (110100, "11.1.0")])
def test_the_release_is_read_from_the_library(number: int, expected: str) -> None:
    assert engine.release(number) == expected


def served(artifact: Path, directory: Path) -> Triton:
    home = tensorrt_home.make(directory)
    return Triton(
        artifact,
        directory,
        program=[str(Path(__file__).with_name("without_gpu.py"))],
        home=home.path,
        environment=home.environment,
        name="digits",
        gpus=1,
        accelerator="TensorRT",
    )


def answers(server: Triton) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    value = httpclient.InferInput("x", list(ROWS.shape), "FP32")
    value.set_data_from_numpy(ROWS)
    with httpclient.InferenceServerClient(server.address, network_timeout=60.0) as client:
        return client.infer("digits", [value]).as_numpy("y"), client.get_model_config("digits")


def expected(artifact: Path) -> Any:
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"x": ROWS})[0]


def test_triton_serves_the_engine(artifact: Path, tmp_path: Path) -> None:
    with served(artifact, tmp_path) as server:
        found, config = answers(server)
        log = server.log()
    np.testing.assert_allclose(found, expected(artifact), atol=1e-5)
    assert (config["backend"], config["max_batch_size"]) == ("tensorrt", 32)
    assert config["parameters"]["longshore_engine"]["string_value"] == "TensorRT 10.9.0, NVIDIA A10G"
    assert "the TensorRT engine for NVIDIA A10G is served" in log


def test_an_engine_that_triton_refuses_is_replaced_by_the_onnx_model_at_once(
    artifact: Path, tmp_path: Path
) -> None:
    plan = b"an engine of another release"
    (artifact / engine.DIRECTORY / "model.plan").write_bytes(plan)
    changed(plan=hashlib.sha256(plan).hexdigest())(artifact / engine.DIRECTORY)
    with served(artifact, tmp_path) as server:
        found, config = answers(server)
        log = server.log()
    np.testing.assert_allclose(found, expected(artifact), atol=1e-5)
    assert config["backend"] == "onnxruntime"
    (told,) = (line for line in log.splitlines() if "the ONNX model is served" in line)
    assert "Version tag does not match" in told
    assert "have it built again" in told
