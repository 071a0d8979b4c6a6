"""From the end of the Job to the first answer, against a bare `tritonserver` on the same repository."""

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.common import Row, median
from tests.server import models
from tests.server.harness import free_ports
from tests.triton.harness import Triton
from tests.tritonhome import triton_home

TURNS = 5
TARGET_SECONDS = 2.0


def rows(directory: Path) -> tuple[Row, ...]:
    """Measure both in turn, on one small model."""
    model = models.mlp(directory / "mlp")
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
    ).encode()
    ours: list[float] = []
    bare: list[float] = []
    for turn in range(TURNS):
        home = directory / f"turn-{turn}"
        home.mkdir()
        begun = time.perf_counter()
        with Triton(model, home, wait=False, name="mlp") as server:
            _first_answer(server.http_port, body)
            ours.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        with bare_server(home / "repository") as port:
            _first_answer(port, body)
            bare.append(time.perf_counter() - begun)
        shutil.rmtree(home)
    return (
        Row(
            "start to first answer, beyond bare tritonserver",
            round(median(ours) - median(bare), 3),
            "s",
            "<=",
            TARGET_SECONDS,
            note=f"longshore-triton {median(ours):.2f} s, bare {median(bare):.2f} s, medians of {TURNS}",
        ),
    )


@contextmanager
def bare_server(repository: Path, *flags: str, prefix: tuple[str, ...] = ()) -> Iterator[int]:
    """Run `tritonserver` alone on a repository; gives its HTTP port."""
    triton = triton_home()
    http, grpc, metrics = free_ports(3)
    command = [
        *prefix,
        str(triton.home / "bin/tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={triton.home / 'backends'}",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=1",
        *flags,
    ]
    path = f"{triton.python.parent}:/usr/bin:/bin"
    process = subprocess.Popen(
        command,
        env={"PATH": path, "ORT_DISABLE_TELEMETRY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _first_answer(port: int, body: bytes) -> None:
    deadline = time.perf_counter() + 60
    while time.perf_counter() < deadline:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/v2/models/mlp/infer", data=body, timeout=5
            ) as answer:
                answer.read()
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.005)
    raise TimeoutError("no answer within a minute")
