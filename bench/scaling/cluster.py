"""What only a real cluster shows; measured where `LONGSHORE_BENCH_CLUSTER=1` says that there is one."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import Op, Row, median
from e2e.kit import activators, registry
from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment, request_body
from e2e.kit.models import classifier
from e2e.kit.operator import REGISTRY_FROM_NODE, REGISTRY_FROM_PODS, ROOT, Operator
from e2e.kit.wait import eventually

VARIABLE = "LONGSHORE_BENCH_CLUSTER"
STARTS = 20
"""Cold starts that are measured, after one that is not."""
STARTS_BY_VOLUME = 8
"""The same of a model that is mounted, for comparison."""
BURST = 200
"""Connections at once."""

_WANTED: tuple[tuple[str, str, Op, float], ...] = (
    ("first-request-at-zero-p50", "s", "<=", 0.8),
    ("first-request-at-zero-p95", "s", "<=", 1.5),
    ("burst-200-at-zero-lost", "connections", "==", 0),
)
_MODEL = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
_BODY = request_body({"x": np.eye(4, dtype=np.float32)[:1]})
_SCALING = {"min": 0, "max": 1, "idleAfter": "2s", "stableWindow": "10s"}


def rows() -> tuple[Row, ...]:
    """Give the rows, without values where no cluster is to be used."""
    if not os.environ.get(VARIABLE):
        note = f"needs the cluster of `make cluster`, and {VARIABLE}=1"
        return tuple(Row(name, None, unit, op, target, note) for name, unit, op, target in _WANTED)
    with _model("Volume") as model:
        by_volume = _starts(model, STARTS_BY_VOLUME)
    with _model("Image") as model:
        ranked = _starts(model, STARTS)
        _asleep(model)
        lost, longest = asyncio.run(_burst(model))
    told = (
        f"{STARTS} cold starts, from connect to the whole answer, image present, packaging: Image; "
        f"fastest {ranked[0]:.2f} s, slowest {ranked[-1]:.2f} s; the same model by image volume "
        f"{median(by_volume):.2f} s; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    )
    values = (median(ranked), ranked[-(-95 * STARTS // 100) - 1], float(lost))
    notes = (told, told, f"of {BURST} connections at once; the last answer after {longest:.2f} s")
    return tuple(
        Row(name, round(value, 3), unit, op, target, note)
        for (name, unit, op, target), value, note in zip(_WANTED, values, notes, strict=True)
    )


def _starts(model: ModelDeployment, count: int) -> list[float]:
    """Give the seconds of as many cold starts, ascending, after one that does not count."""
    _asleep(model)
    first_request(model)
    seconds: list[float] = []
    for _ in range(count):
        _asleep(model)
        seconds.append(first_request(model))
        print(f"cold start: {seconds[-1]:.3f} s", file=sys.stderr, flush=True)
    return sorted(seconds)


@contextmanager
def _model(packaging: str) -> Iterator[ModelDeployment]:
    """Serve a small model that may sleep, with an operator and activators of this run's own."""
    tool = [sys.executable, "-m", "e2e.cluster", "env"]
    said = subprocess.run(tool, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    exported = dict(line.removeprefix("export ").split("=", 1) for line in said.splitlines())
    kube = Kube(Path(exported["KUBECONFIG"]), Path(exported["PATH"].partition(":")[0]) / "kubectl")
    kube("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    kube("create", "namespace", namespace)
    kube("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    with tempfile.TemporaryDirectory() as folder:
        token = activators.install(kube, namespace, Path(folder))
        operator = Operator(kube.kubeconfig, namespace, Path(folder) / "operator.log", token)
        operator.start()
        try:
            registry.push(REGISTRY_FROM_NODE, "nap", "1", {"model.onnx": _MODEL})
            model = ModelDeployment(kube, namespace, "nap")
            uri = f"oci://{REGISTRY_FROM_PODS}/nap:1"
            serving = {"runtime": "OnnxRuntime", "packaging": packaging}
            model.apply({"model": {"uri": uri}, "scaling": _SCALING, "serving": serving})
            model.wait_ready(180)
            yield model
        finally:
            kube("delete", "modeldeployments", "--all", "-n", namespace, "--timeout=60s")
            operator.end()
            kube("delete", "namespace", namespace, "--wait=false")


def _asleep(model: ModelDeployment) -> None:
    """Wait until no pod is left and everything about its end is over."""

    def look() -> bool:
        assert model.read()["status"]["stable"]["replicas"] == 0
        return not model.kube.list("pods", model.namespace, "app.kubernetes.io/component=server")

    eventually(look, "the model goes to zero", 120, 0.5)
    time.sleep(2.0)


def _request(model: ModelDeployment) -> bytes:
    head = (
        f"POST /v2/models/{model.name}/infer HTTP/1.1\r\nHost: {model.name}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + _BODY


def first_request(model: ModelDeployment) -> float:
    """Ask once on a new connection; gives the seconds until the whole answer was there."""
    place, request = model.address().removeprefix("http://"), _request(model)
    began = time.perf_counter()
    with socket.create_connection((place, 80), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    seconds = time.perf_counter() - began
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    return seconds


async def _burst(model: ModelDeployment) -> tuple[int, float]:
    """Ask on many connections at once; gives how many got no answer, and the longest wait in seconds."""
    place, request = model.address().removeprefix("http://"), _request(model)

    async def ask() -> tuple[bool, float]:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_connection(place, 80)
                writer.write(request)
                answer: Any = await reader.read()
                writer.close()
        except (OSError, TimeoutError):
            answer = b""
        return answer.startswith(b"HTTP/1.1 200"), time.perf_counter() - began

    found = await asyncio.gather(*(ask() for _ in range(BURST)))
    return sum(not answered for answered, _ in found), max(seconds for _, seconds in found)
