"""ONNX Runtime's reports to its maker are off: no socket leaves, no identifier is stored."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server import models
from tests.server.harness import Server


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-f", "-e", "trace=connect", "true"], capture_output=True).returncode == 0
    )


def test_nothing_is_stored_about_this_device(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    model = models.mlp(tmp_path / "mlp")
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "ORT_DISABLE_TELEMETRY": "0"}
    with Server(model, environment=environment) as server:
        assert (
            server.infer({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0] * 16}]})[
                0
            ]
            == 200
        )
    assert not list(home.rglob("*"))


@pytest.mark.skipif(not can_trace(), reason="strace cannot trace here")
def test_the_server_connects_to_nobody(tmp_path: Path) -> None:
    log = tmp_path / "trace"
    prefix = ("strace", "-D", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(log))
    with Server(models.mlp(tmp_path / "mlp"), prefix=prefix) as server:
        assert (
            server.infer({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0] * 16}]})[
                0
            ]
            == 200
        )
    calls = [line for line in log.read_text().splitlines() if "AF_INET" in line]
    assert calls == []
