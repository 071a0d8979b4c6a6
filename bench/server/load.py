"""Builds and runs the load generator, and makes what it sends."""

import hashlib
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from longshore_server.messages import Messages

from bench.server.servers import CACHE, CLIENT_CORE, Running, compiled, prefer


@dataclass(frozen=True)
class Result:
    """What one run of the generator saw; latencies in microseconds, `cpu` in seconds of the server."""

    good: int
    bad: int
    seconds: float
    rps: float
    p50: float
    p99: float
    dropped: int
    waiting: int
    cpu: float

    @property
    def per_cpu_second(self) -> float:
        """Requests for each second of the server's processor time: what a core of its own would do."""
        return self.good / self.cpu if self.cpu else 0.0


def run(server: Running, ask: "Ask", connections: int, seconds: float, rate: float = 0.0) -> Result:
    port = server.grpc if ask.mode == "grpc" else server.http
    before = server.cpu_seconds()
    command = ["taskset", "-c", CLIENT_CORE, str(compiled("load")), ask.mode, str(port), str(connections)]
    process = subprocess.Popen(
        [*command, str(seconds), str(rate), str(ask.file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    prefer(process.pid)
    output, errors = process.communicate(timeout=seconds + 60)
    if process.returncode:
        raise RuntimeError(f"the load generator failed: {errors.strip()}")
    found: dict[str, Any] = json.loads(output)
    keys = ("good", "bad", "seconds", "rps", "p50", "p99", "dropped", "waiting")
    return Result(**{key: found[key] for key in keys}, cpu=server.cpu_seconds() - before)


def answers(server: Running, ask: "Ask", patience: float = 60.0) -> None:
    """Return once a request is answered: some servers say ready before their workers are.

    Raises:
        RuntimeError: none was within `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while not (result := run(server, ask, 1, 0.5)).good:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no request was answered within {patience:g} s: {result}")


@dataclass(frozen=True)
class Ask:
    """One request in a file, as it goes over the wire (HTTP), or as a message (gRPC)."""

    mode: str
    file: Path


def json_ask(name: str, array: Any, path: str = "") -> Ask:
    document = {"inputs": [_tensor(array) | {"data": [round(float(value), 3) for value in array.ravel()]}]}
    return _http(f"{name}-json", path or f"/v2/models/{name}/infer", orjson.dumps(document))


def binary_ask(name: str, array: Any) -> Ask:
    document = {
        "inputs": [_tensor(array) | {"parameters": {"binary_data_size": array.nbytes}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    text = orjson.dumps(document)
    extra = f"Inference-Header-Content-Length: {len(text)}\r\n"
    return _http(f"{name}-binary", f"/v2/models/{name}/infer", text + array.tobytes(), extra)


def grpc_ask(name: str, array: Any) -> Ask:
    request = Messages().type("inference.ModelInferRequest")(model_name=name)
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return Ask("grpc", _store(f"{name}-grpc", request.SerializeToString()))


def _tensor(array: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(array.shape), "datatype": "FP32"}


def _http(name: str, path: str, body: bytes, extra: str = "") -> Ask:
    kind = "application/octet-stream" if extra else "application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n{extra}"
    return Ask("http", _store(name, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body))


def _store(name: str, content: bytes) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    # Two asks of one name differ in their path: each has a file of its own.
    path = CACHE / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}.request"
    path.write_bytes(content)
    return path


def sample(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(1).random(shape, np.float32)
