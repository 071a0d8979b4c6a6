"""What a pod with Triton goes through: start, death of its parts, a calm end. Real processes all along."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from onnx import TensorProto, helper

from tests.server import models
from tests.triton.harness import Triton

REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [1.0] * 16}]}


class Service:
    """A port whose new connections go to `port`, as those of a Kubernetes Service do; open ones stay."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Service":
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in self._sockets:
            one.close()

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                self._sockets += [client, server]
                self._start(self._pump, client, server)
                self._start(self._pump, server, client)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


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


def test_clients_of_grpc_move_to_another_server_and_lose_nothing(model: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with (
        Triton(model, tmp_path / "old", drain_seconds=1, grpc_age_seconds=2) as old,
        Triton(model, tmp_path / "new") as new,
        Service(old.grpc_port) as service,
    ):
        answers: list[str] = []
        stop = threading.Event()

        def ask() -> None:
            """Ask on one channel, as a client that knows only the Service's address."""
            row = tritonclient.grpc.InferInput("x", [1, 16], "FP32")
            row.set_data_from_numpy(np.ones((1, 16), np.float32))
            with tritonclient.grpc.InferenceServerClient(service.address) as client:
                while not stop.is_set():
                    try:
                        client.infer(old.name, [row], client_timeout=10)
                        answers.append("")
                    except tritonclient.grpc.InferenceServerException as error:
                        answers.append(str(error))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        deadline = time.monotonic() + 20
        while len(answers) < 100:
            assert time.monotonic() < deadline
        service.port = new.grpc_port
        old.process.send_signal(signal.SIGTERM)
        assert old.process.wait(20) == 0
        after = len(answers)
        while len(answers) < after + 100:
            assert time.monotonic() < deadline
        stop.set()
        for client in clients:
            client.join(20)
    assert [answer for answer in answers if answer] == []


def test_an_answer_of_many_parts_is_whole_while_it_drains(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "strings", TensorProto.STRING)
    # Text that looks like the beginning of an answer, and more of it than the kernel takes at once.
    words = ["HTTP/1.1 200 OK\r\n"] * 100_000
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, len(words)], "data": words}]}
    ).encode()
    with Triton(model, tmp_path, drain_seconds=3) as server:
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
