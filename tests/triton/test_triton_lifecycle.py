"""What a pod with Triton goes through: start, death of its parts, a calm end. Real processes all along."""

import http.client
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from tests.server import models
from tests.triton.harness import Triton

REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [1.0] * 16}]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.mlp(tmp_path / "mlp")


def stubs(server: Triton) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if "(triton_python_b" in text and str(server.directory) in command:
            found.append(int(stat.parent.name))
    return found


def regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("triton_*")}


def regions_of(server: Triton) -> set[str]:
    """Other servers of this machine have theirs; a stub is told its region on the command line."""
    commands = [Path(f"/proc/{stub}/cmdline").read_text() for stub in stubs(server)]
    return {name for name in regions() if any(name in command for command in commands)}


def test_a_dead_stub_ends_the_container_with_a_reason(model: Path, tmp_path: Path) -> None:
    with Triton(model, tmp_path, instances=2) as server:
        deadline = time.monotonic() + 10
        while "ready with 2" not in server.log():
            assert time.monotonic() < deadline
        os.kill(stubs(server)[0], signal.SIGKILL)
        assert server.process.wait(20) == 1
        report = server.report()
    assert (report["outcome"], report["reason"]) == ("Failed", "ModelCrashed")
    assert "1 of 2 copies" in report["message"]


def test_a_crash_while_loading_is_told_with_the_last_lines(tmp_path: Path) -> None:
    repository = tmp_path / "artifact"
    (repository / "1").mkdir(parents=True)
    (repository / "1" / "model.py").write_text(
        "import os, sys\n"
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        "        print('no licence for this model', flush=True)\n"
        "        os._exit(7)\n"
    )
    (repository / "config.pbtxt").write_text(
        'backend: "python"\ninput { name: "x" data_type: TYPE_FP32 dims: 1 }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: 1 }\n'
    )
    with Triton(repository, tmp_path, wait=False, allow_python=True) as server:
        assert server.process.wait(60) == 1
        report = server.report()
    assert report["reason"] in ("ModelLoadFailed", "ModelCrashed")
    assert "no licence for this model" in report["message"]


def test_an_operator_that_the_runtime_lacks_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="example.org")
    directory = models.save(
        tmp_path / "odd", [node], [("x", TensorProto.FLOAT, ["N", 2])], [("y", TensorProto.FLOAT, ["N", 2])]
    )
    with Triton(directory, tmp_path, wait=False) as server:
        assert server.process.wait(60) == 1
        report = server.report()
    assert report["reason"] == "ModelLoadFailed"
    assert "Frobnicate" in report["message"]
    assert len(server.termination_log.read_bytes()) <= 4096


def test_it_ends_though_a_connection_stays_open(model: Path, tmp_path: Path) -> None:
    with Triton(model, tmp_path) as server, socket.create_connection(("127.0.0.1", server.http_port)) as idle:
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        server.process.send_signal(signal.SIGTERM)
        # Triton alone would wait for its whole exit timeout of 22 s.
        assert server.process.wait(12) == 0


def test_it_answers_for_a_while_after_it_is_told_to_end(model: Path, tmp_path: Path) -> None:
    with Triton(model, tmp_path, drain_seconds=2) as server:
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while "told to end" not in server.log():
            assert time.monotonic() < deadline
        assert server.status(f"/v2/models/{server.name}/ready") == 200
        assert server.process.wait(20) == 0


def test_a_client_that_keeps_its_connection_busy_is_told_to_go_and_loses_nothing(
    model: Path, tmp_path: Path
) -> None:
    body = json.dumps(REQUEST)
    with Triton(model, tmp_path, drain_seconds=1) as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)

        def ask() -> bool:
            """Ask once, as the same connection's next request; gives whether the server closes it."""
            kept.request("POST", f"/v2/models/{server.name}/infer", body)
            answer = kept.getresponse()
            assert answer.status == 200
            assert len(json.loads(answer.read())["outputs"][0]["data"]) == 8
            return answer.will_close

        assert not any(ask() for _ in range(20))
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not ask():
            assert time.monotonic() < deadline, "it is never told to close"
        # Triton alone would answer on it for its whole exit timeout of 22 s, and then cut it.
        assert server.process.wait(8) == 0


def test_an_answer_of_many_parts_is_whole_while_it_drains(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "strings", TensorProto.STRING)
    # Text that looks like the beginning of an answer, and more of it than the kernel takes at once.
    words = ["HTTP/1.1 200 OK\r\n"] * 300_000
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, len(words)], "data": words}]}
    ).encode()
    with Triton(model, tmp_path, drain_seconds=8) as server:
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while "told to end" not in server.log():
            assert time.monotonic() < deadline
        asked = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
        asked.request("POST", f"/v2/models/{server.name}/infer", body)
        answer = asked.getresponse()
        assert answer.headers["Connection"] == "close"
        assert json.loads(answer.read())["outputs"][0]["data"] == words


def test_memory_that_a_killed_server_left_is_freed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with Triton(model, tmp_path / "first") as server:
        made = regions_of(server)
        children = stubs(server)
        os.killpg(os.getpgid(children[0]), signal.SIGKILL)
        server.process.kill()
        server.process.wait()
    assert made
    assert made <= regions()
    with Triton(model, tmp_path / "second"):
        assert not made & regions()


def test_every_line_of_the_log_is_json(model: Path, tmp_path: Path) -> None:
    with Triton(model, tmp_path) as server:
        pass
    lines = [json.loads(line) for line in (server.directory / "log").read_text().splitlines()]
    assert {"time", "level", "source", "message"} == set(lines[0])
    assert any("successfully loaded" in line["message"] for line in lines)


def test_the_closed_interfaces_are_closed(model: Path, tmp_path: Path) -> None:
    with Triton(model, tmp_path) as server:
        assert server.status("/v2/systemsharedmemory/status") == 403
        assert server.status("/v2/cudasharedmemory/status") == 403
        assert server.status("/v2/trace/setting") == 403
        assert server.status("/v2/logging") == 403


def test_an_image_without_triton_says_so(model: Path, tmp_path: Path) -> None:
    server = Triton(model, tmp_path, wait=False)
    server._command[server._command.index("--home") + 1] = str(tmp_path)
    with server:
        assert server.process.wait(20) == 1
        assert server.report()["reason"] == "BackendMissing"
