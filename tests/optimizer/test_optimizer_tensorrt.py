"""TensorRT engines: built beside a GPU, run, compared, and described for whoever serves them.

No GPU is needed: `trtexec` and `nvidia-smi` are stand-ins that behave as documented (tensorrt_tools.py).
"""

import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from longshore.api.optimize import Export
from longshore.artifact.manifest import Candidate, Verdict
from longshore_optimizer.data import TensorSpec
from longshore_optimizer.exports import gpu, tensorrt, trtexec
from longshore_optimizer.exports.base import ExportWork
from longshore_optimizer.exports.run import Sources, make
from longshore_optimizer.exports.tensorrt import TensorRt, arguments, batches, recipe
from longshore_optimizer.exports.trtexec import EngineError, release
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.workers import Workers

from tests.optimizer import tensorrt_tools
from tests.optimizer.conftest import mlp

ALWAYS = ["build-engine.txt", "model.onnx"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return mlp(tmp_path / "model.onnx")


def exported(model: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Candidate, Path]:
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    out = model.parent / "out"
    (given,) = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()
    samples = np.random.default_rng(3).standard_normal((2, *given.shape[1:])).astype(np.float32)
    np.savez(model.parent / "data.npz", **{given.name: samples})
    sources = Sources(model, model, model.parent / "data.npz", None)
    with Workers(usable_cores(1)) as workers:
        (row,) = make((Export.TENSORRT,), sources, out, workers, 0)
    return row, out / "TensorRT"


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def work_of(model: Path) -> ExportWork:
    out = model.parent / "written"
    out.mkdir()
    (given,) = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()
    sample = {given.name: np.zeros([1, *given.shape[1:]], np.float32)}
    return ExportWork(model, out, 1, sample)


def test_an_engine_is_built_run_compared_and_described(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, written = exported(model, tensorrt_tools.install(tmp_path / "bin"), monkeypatch)
    assert row.verdict is Verdict.KEPT, row.reason
    assert "run with TensorRT 10.9.0 on 2 samples: agreement 1.0000" in row.reason
    assert "an engine for NVIDIA A10G (compute capability 8.6), driver 550.54.15" in row.reason
    assert (row.p50_ms, row.p95_ms) == (0.5, pytest.approx(1.325)), "trtexec's own times"
    assert names(written) == [*ALWAYS[:1], "engine.json", "model.onnx", "model.plan"]
    plan = (written / "model.plan").read_bytes()
    assert json.loads((written / "engine.json").read_text()) == {
        "gpu": "NVIDIA A10G",
        "computeCapability": "8.6",
        "driver": "550.54.15",
        "tensorrt": "10.9.0",
        "platform": f"linux_{platform.machine()}",
        "precision": "fp16",
        "source": hashlib.sha256((written / "model.onnx").read_bytes()).hexdigest(),
        "plan": hashlib.sha256(plan).hexdigest(),
        "minBatch": 1,
        "maxBatch": 32,
    }
    assert row.size_bytes == sum(p.stat().st_size for p in written.iterdir())


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("fails", "could not be built here: trtexec ended with exit code 1: [optimizer.cpp::computeCosts"),
        ("crashes", "could not be built here: trtexec ended with signal 6"),
        ("wrong", "was refused: it answers differently: agreement"),
        ("cannot run", "was refused: trtexec ended with exit code 1: [executionContext.cpp::enqueueV3"),
    ],
)
def test_the_model_and_the_recipe_stay_without_an_engine_that_is_right(
    mode: str, words: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, written = exported(model, tensorrt_tools.install(tmp_path / "bin", mode), monkeypatch)
    assert row.verdict is Verdict.KEPT, row.reason
    assert "not compared here: an engine is built on the GPU that runs it, by build-engine.txt" in row.reason
    assert words in row.reason
    assert "an engine for" not in row.reason
    assert row.p50_ms is None
    assert names(written) == ALWAYS


def test_a_builder_that_hangs_is_ended(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tensorrt_tools.install(tmp_path / "bin", "hangs")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(trtexec, "BUILD_SECONDS", 2.0)
    work, format_ = work_of(model), TensorRt()
    told = format_.runner(format_.write(work), work)
    assert isinstance(told, str)
    assert "trtexec was not done after 2 s" in told
    assert names(work.out) == ALWAYS


def test_without_builder_or_gpu_the_row_says_which_is_missing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    row, written = exported(model, tools, monkeypatch)
    assert "this image has no trtexec" in row.reason
    assert "no GPU is seen (there is no nvidia-smi)" in row.reason
    assert names(written) == ALWAYS
    tensorrt_tools.nvidia_smi(tools)
    work, format_ = work_of(model), TensorRt()
    told = str(format_.runner(format_.write(work), work))
    assert "this image has no trtexec" in told
    assert "no GPU" not in told
    tensorrt_tools.install(tools, row="No devices were found")
    told = str(format_.runner(format_.write(work), work))
    assert "no GPU is seen (nvidia-smi says: No devices were found)" in told
    assert "no trtexec" not in told


def test_a_builder_of_an_old_release_is_not_used(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tensorrt_tools.install(tmp_path / "bin", version=8601)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    work, format_ = work_of(model), TensorRt()
    told = format_.runner(format_.write(work), work)
    assert "TensorRT 8.6.1 is here, and engines are built with 10 and newer" in str(told)


def test_release_11_gets_no_flag_that_it_does_not_know(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tensorrt_tools.install(tmp_path / "bin", version=110100)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    work, format_ = work_of(model), TensorRt()
    assert not isinstance(format_.runner(format_.write(work), work), str)
    described = json.loads((work.out / "engine.json").read_text())
    assert (described["tensorrt"], described["precision"]) == ("11.1.0", "fp32")


def test_a_slice_of_a_gpu_is_told_with_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt_tools.nvidia_smi(
        tmp_path / "bin",
        "NVIDIA A100-SXM4-40GB, 8.0, 550.54.15",
        "  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef)",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert gpu.find() == gpu.Gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "8.0", "550.54.15")


@pytest.mark.parametrize(
    ("number", "expected"),
    [(100900, (10, 9, 0)), (101303, (10, 13, 3)), (110100, (11, 1, 0)), (8601, (8, 6, 1)), (9300, (9, 3, 0))],
)
def test_the_release_is_read_from_the_banner(number: int, expected: tuple[int, int, int]) -> None:
    assert release(number) == expected


def test_what_trtexec_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '[\n  { "name" : "y"\n  , "dimensions" : "(2, 2)"\n  , "values" : [ 1, -nan, inf, -inf ]\n  }\n'
        ', { "name" : "inf, nan"\n  , "dimensions" : "()"\n  , "values" : [ 1e-05 ]\n  }\n]\n'
    )
    first, second = trtexec._read(tmp_path / "a.json")
    np.testing.assert_array_equal(
        trtexec._tensor("y", first, "float32"), np.array([[1, np.nan], [np.inf, -np.inf]], np.float32)
    )
    assert trtexec._tensor("s", second, "float32").shape == ()
    for entry in (None, {"dimensions": "2x2", "values": [1]}, {"dimensions": "-1", "values": []}):
        with pytest.raises(EngineError):
            trtexec._tensor("y", entry, "float32")
    for text in ("", "{}", "[1]", "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(EngineError):
            trtexec._read(tmp_path / "a.json")


def test_hostile_names_of_inputs_are_told_or_quoted() -> None:
    assert trtexec.unnamable(["ids:0", "x"]) is None
    assert trtexec.unnamable(["x", "a,b"]) == "a,b"
    hostile = TensorSpec("x; rm -r $HOME", "float32", (None, 4), ("batch", 4))
    sample = {hostile.name: (1, 4)}
    command = recipe([hostile], sample, "0" * 64).split("\n\n")[2]
    shown = subprocess.run(
        ["sh", "-c", command.replace("trtexec", "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == arguments([hostile], sample)


def test_batches_follow_the_shapes() -> None:
    free, fixed = TensorSpec("x", "float32", (None, 4)), TensorSpec("y", "float32", (8, 4))
    scalar = TensorSpec("s", "float32", ())
    assert batches([free], {"x": (1, 4)}) == (1, tensorrt._LARGEST_BATCH)
    assert batches([scalar, fixed], {"y": (8, 4), "s": ()}) == (8, 8)
    assert batches([scalar], {"s": ()}) == (1, 1)


@pytest.mark.parametrize(("local", "allowed"), [(False, "False False"), (True, "True False")])
def test_the_builder_has_no_network_but_sockets_of_its_node(local: bool, allowed: str) -> None:
    code = (
        "import socket\n"
        "from longshore_optimizer.convert.lockdown import deny_network\n"
        f"deny_network(but_local={local})\n"
        "def opens(family):\n"
        "    try:\n        socket.socket(family).close()\n    except PermissionError:\n        return False\n"
        "    return True\n"
        "print(opens(socket.AF_UNIX), opens(socket.AF_INET) or opens(socket.AF_INET6))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == allowed.split()
    socket.socket(socket.AF_INET).close()
