"""Ending: not ready first, everything in flight answered, exit 0."""

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.server import models
from tests.server.harness import Server

ASK = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]}


def wait_until_not_ready(server: Server) -> None:
    deadline = time.monotonic() + 10
    while server.get("/v2/health/ready")[0] == 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_serves_on_then_closes(tmp_path: Path, number: signal.Signals) -> None:
    with Server(models.mlp(tmp_path / "mlp"), "--drain-delay", "1") as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.http_port)
        kept.request("GET", "/v2/health/live")
        assert kept.getresponse().read()
        server.process.send_signal(number)
        wait_until_not_ready(server)
        # Still here for those who have not noticed yet, on old connections and new ones.
        assert server.infer(ASK)[0] == 200
        kept.request("POST", "/v2/models/mlp/infer", json.dumps(ASK))
        response = kept.getresponse()
        assert response.status == 200
        response.read()
        kept.close()
        assert server.process.wait(10) == 0


def test_a_request_in_flight_is_answered(tmp_path: Path) -> None:
    # About a second of work.
    model = models.slow(tmp_path / "slow", 400, 512)
    ask = {"inputs": [{"name": "x", "shape": [256, 512], "datatype": "FP32", "data": [1.0] * (256 * 512)}]}
    with Server(model) as server:
        answers: list[tuple[int, object]] = []
        thread = threading.Thread(target=lambda: answers.append(server.infer(ask)))
        thread.start()
        while not server.metrics()['longshore_requests_in_flight{model="slow",version="1"}']:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        thread.join(30)
        assert server.process.wait(20) == 0
    assert answers[0][0] == 200


def test_idle_connections_do_not_hold_the_end_up(tmp_path: Path) -> None:
    with Server(models.mlp(tmp_path / "mlp")) as server:
        idle = socket.create_connection(("127.0.0.1", server.http_port))
        assert server.get("/v2/health/live")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
        assert idle.recv(1) == b""
        idle.close()


def test_the_grace_period_is_kept(tmp_path: Path) -> None:
    with Server(models.mlp(tmp_path / "mlp"), "--grace-period", "1") as server:
        stuck = socket.create_connection(("127.0.0.1", server.http_port))
        stuck.sendall(b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
        assert server.get("/v2/health/live")[0] == 200
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 75
        assert time.monotonic() - started < 5
        stuck.close()


def test_workers_share_a_port_and_count_together(tmp_path: Path) -> None:
    with Server(models.mlp(tmp_path / "mlp"), "--workers", "3") as server:
        assert server.metrics()['longshore_workers_ready{model="mlp",version="1"}'] == 3
        for _ in range(30):
            assert server.infer(ASK)[0] == 200
        counted = 'nv_inference_request_success{model="mlp",version="1"}'
        deadline = time.monotonic() + 10  # a worker counts once its answer is on its way
        while server.metrics()[counted] != 30:
            assert time.monotonic() < deadline
        for _ in range(5):  # whichever worker answers
            assert server.metrics()[counted] == 30
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    import os

    with Server(models.mlp(tmp_path / "mlp"), "--workers", "2") as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while True:
            try:
                now = (
                    Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
                )
                ready = server.metrics()['longshore_workers_ready{model="mlp",version="1"}']
                if len(now) == 2 and now != children and ready == 2:
                    break
            except OSError:
                pass  # a connection that the killed worker had accepted
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.infer(ASK)[0] == 200


def test_a_bad_model_ends_all_workers(tmp_path: Path) -> None:
    from tests.server.harness import failed_start

    model = models.mlp(tmp_path / "mlp")
    assert failed_start(model, "--workers", "2", "--provider", "openvino")[0] == 69
