"""What a user sees when the server cannot start: an exit code and one line that helps."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from longshore_server import cli
from longshore_server.lifecycle import _until_connected
from onnx import TensorProto, helper, numpy_helper

from tests.server import models
from tests.server.harness import Server, failed_start

BAD_MODEL, NO_MODEL, PROVIDER_ABSENT = 65, 66, 69
WARM_UP_FAILED, CANNOT_LISTEN, BAD_CONFIGURATION = 70, 71, 78


def external(directory: Path, location: str) -> Path:
    """A model whose only weight lies in another file."""
    models.mlp(directory, (4, 2))
    model = onnx.load(directory / "model.onnx")
    tensor = next(one for one in model.graph.initializer if one.name == "w0")
    raw = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    (directory / "weights.bin").write_bytes(raw)
    return directory


def test_a_text_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("<html>404 not found</html>")
    code, line = failed_start(tmp_path)
    assert code == BAD_MODEL
    assert "is text" in line
    assert "export or fetch the model again" in line


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    whole = (models.mlp(tmp_path / "m") / "model.onnx").read_bytes()
    (tmp_path / "m" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    code, line = failed_start(tmp_path / "m")
    assert code == BAD_MODEL
    assert "truncated" in line


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(np.random.default_rng(1).bytes(5000))
    code, line = failed_start(tmp_path)
    assert code == BAD_MODEL
    assert "not an ONNX model" in line


def test_a_missing_model_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    code, line = failed_start(tmp_path)
    assert code == NO_MODEL
    assert "weights.pt" in line
    assert failed_start(tmp_path / "nowhere")[0] == NO_MODEL


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin"])
def test_external_data_outside_the_directory_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(32))
    code, line = failed_start(external(tmp_path / "m", location))
    assert code == BAD_MODEL
    assert "outside its directory" in line


def test_external_data_behind_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(32))
    directory = external(tmp_path / "m", "link.bin")
    (directory / "link.bin").symlink_to(tmp_path / "secret.bin")
    code, line = failed_start(directory)
    assert code == BAD_MODEL
    assert "outside its directory" in line


def test_external_data_in_a_subgraph_is_found(tmp_path: Path) -> None:
    directory = models.slow(tmp_path / "m", 2, 4)
    model = onnx.load(directory / "model.onnx")
    body = model.graph.node[0].attribute[0].g
    tensor = body.initializer.add(name="hidden", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    assert failed_start(directory)[0] == BAD_MODEL


def test_missing_and_short_external_data_are_told_apart(tmp_path: Path) -> None:
    directory = external(tmp_path / "m", "weights.bin")
    model = onnx.load(directory / "model.onnx", load_external_data=False)
    tensor = next(one for one in model.graph.initializer if one.external_data)
    tensor.external_data.add(key="length", value="4096")
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    code, line = failed_start(directory)
    assert code == BAD_MODEL
    assert "truncated" in line
    (directory / "weights.bin").unlink()
    assert "missing" in failed_start(directory)[1]


def test_external_data_beside_the_model_is_served(tmp_path: Path) -> None:
    with Server(external(tmp_path / "m", "weights.bin")) as server:
        status, answer = server.infer(
            {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1] * 4}]}
        )
    assert status == 200
    assert len(answer["outputs"][0]["data"]) == 2


def test_a_model_directory_reached_through_links_is_served(tmp_path: Path) -> None:
    """As Kubernetes mounts them: every entry is a link into a hidden directory."""
    external(tmp_path / "..data", "weights.bin")
    shown = tmp_path / "m"
    shown.mkdir()
    for name in ("model.onnx", "weights.bin"):
        (shown / name).symlink_to(tmp_path / "..data" / name)
    # ONNX Runtime itself refuses data that leaves the model's directory by a link; resolved paths do not.
    with Server(shown) as server:
        assert server.get("/v2/health/ready")[0] == 200


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    models.save(
        tmp_path,
        [helper.make_node("Frobnicate", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", 2])],
        [("y", TensorProto.FLOAT, ["N", 2])],
    )
    code, line = failed_start(tmp_path)
    assert code == BAD_MODEL
    assert "Frobnicate" in line
    assert "lacks an operator" in line


def test_a_model_that_fails_on_its_own_shapes_is_not_served(tmp_path: Path) -> None:
    models.save(
        tmp_path,
        [helper.make_node("Reshape", ["x", "wrong"], ["y"])],
        [("x", TensorProto.FLOAT, [2, 3])],
        [("y", TensorProto.FLOAT, None)],
        {"wrong": np.array([4, 4])},
    )
    code, line = failed_start(tmp_path)
    assert code in (WARM_UP_FAILED, BAD_MODEL)
    assert "longshore-server:" in line


def test_a_provider_that_is_absent_is_an_error(tmp_path: Path) -> None:
    code, line = failed_start(models.mlp(tmp_path), "--provider", "cuda,cpu")
    assert code == PROVIDER_ABSENT
    assert "cuda" in line
    assert "onnxruntime-gpu" in line


def test_the_termination_log_gets_the_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    code, line = failed_start(tmp_path / "nowhere", "--termination-log", str(log))
    assert code == NO_MODEL
    assert log.read_text() == line
    assert not (tmp_path / "other").exists()
    failed_start(tmp_path / "nowhere", "--termination-log", str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    model = models.mlp(tmp_path)
    for workers in ("1", "2"):
        with Server(model, "--workers", workers) as server:
            code, line = failed_start(model, "--http-port", str(server.http_port), "--workers", workers)
        assert code == CANNOT_LISTEN
        assert str(server.http_port) in line


def test_bad_usage_and_bad_key_files(tmp_path: Path) -> None:
    model = models.mlp(tmp_path)
    assert failed_start(model, "--workers", "many")[0] == 2
    assert failed_start(model, "--provider", "abacus")[0] == 2
    code, line = failed_start(model, "--api-key-file", str(tmp_path / "none"))
    assert code == BAD_CONFIGURATION
    assert "--api-key-file" in line
    (tmp_path / "empty").touch()
    assert failed_start(model, "--api-key-file", str(tmp_path / "empty"))[0] == BAD_CONFIGURATION


def test_every_flag_is_an_environment_variable(tmp_path: Path) -> None:
    with Server(models.mlp(tmp_path), environment={"LONGSHORE_SERVER_NAME": "by-environment"}) as server:
        assert server.get("/v2/models/by-environment")[1]["name"] == "by-environment"


def test_a_path_to_a_file_and_the_default_name(tmp_path: Path) -> None:
    with Server(models.mlp(tmp_path / "digits") / "model.onnx") as server:
        assert server.get("/v2/models/digits")[0] == 200
    assert os.listdir(tmp_path / "digits") == ["model.onnx"]


_WATCHED = """
import gc, os, signal, sys, threading, time
from longshore_server.cli import main

def watch():
    while gc.isenabled():
        time.sleep(0.005)
    while not gc.isenabled():
        time.sleep(0.005)
    print("frozen", gc.get_freeze_count(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=watch, daemon=True).start()
sys.exit(main(sys.argv[1:]))
"""


def test_the_collector_rests_while_starting_and_works_afterwards(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "m")
    flags = ["--http-port", "0", "--grpc-port", "0", "--host", "127.0.0.1", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, "--model", str(model), "--drain-delay", "0", *flags],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    word, count = done.stdout.split()
    assert word == "frozen"
    assert int(count) > 1000


def test_the_collector_works_again_after_a_start_that_failed(tmp_path: Path) -> None:
    assert (
        cli.main(["--model", str(tmp_path / "nowhere"), "--termination-log", str(tmp_path / "log")])
        == NO_MODEL
    )
    assert gc.isenabled()


def test_grpc_is_answered_as_soon_as_the_model_is(tmp_path: Path) -> None:
    with Server(models.mlp(tmp_path / "m")) as server, grpc.insecure_channel(server.grpc_address) as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert ready(b"", timeout=30) == b"\x08\x01"


async def test_who_connects_ends_the_wait_for_a_first_grpc_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        waiting = asyncio.ensure_future(_until_connected(bound, asyncio.get_running_loop(), 3600))
        _, writer = await asyncio.open_connection(*bound.getsockname())
        async with asyncio.timeout(10):
            await waiting
        writer.close()
        await _until_connected(bound, asyncio.get_running_loop(), 0)
