"""Starts the server as its users do: a process of its own on free ports."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from e2e.ports import free_ports

READY_SECONDS = 60.0
# The interpreter that has the server: another environment's where a variant of it is tested.
PYTHON = os.environ.get("LONGSHORE_TEST_SERVER_PYTHON") or sys.executable


class Server:
    """`with Server(model) as server:` gives a server that is ready, and ends it."""

    def __init__(
        self,
        model: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        scheme: str = "http",
        wait: bool = True,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.http_port, self.grpc_port = free_ports(2)
        self.model = model
        self.scheme = scheme
        self._wait = wait
        self._command = [
            *prefix,
            PYTHON,
            "-m",
            "longshore_server",
            *("--model", str(model), "--host", "127.0.0.1"),
            *("--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)),
            *("--drain-delay", "0", "--workers", "1", *flags),
        ]
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> "Server":
        self.process = subprocess.Popen(
            self._command, env=self._environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._wait:
            try:
                self.wait_ready()
            except BaseException:
                self.process.kill()
                self.process.communicate()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.communicate()
                raise
        else:
            self.process.communicate()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the server ended with {self.process.returncode}: {self.process.communicate()[1]}"
                )
            try:
                with socket.create_connection(("127.0.0.1", self.http_port), 1):
                    pass
                if self.scheme != "http" or self.get("/v2/health/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError("the server did not get ready")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return (
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        status, _, body = self.request("GET", path, headers=headers)
        return status, json.loads(body)

    def post(self, path: str, document: Any, **headers: str) -> tuple[int, Any]:
        status, _, body = self.request("POST", path, json.dumps(document).encode(), headers)
        return status, json.loads(body)

    def infer(self, document: Any, **headers: str) -> tuple[int, Any]:
        return self.post(f"/v2/models/{self.name}/infer", document, **headers)

    @property
    def name(self) -> str:
        return self.model.parent.name if self.model.suffix == ".onnx" else self.model.name

    def metrics(self) -> dict[str, float]:
        """Samples by their name and labels, as the exposition writes them."""
        _, _, body = self.request("GET", "/metrics")
        lines = [line for line in body.decode().splitlines() if line and not line.startswith("#")]
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines)}


def failed_start(model: Path, *flags: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and the last line on standard error of a server that must not start."""
    port = free_ports(1)[0]
    command = [
        *(PYTHON, "-m", "longshore_server", "--model", str(model), "--host", "127.0.0.1"),
        *("--http-port", str(port), "--grpc-port", "0", *flags),
    ]
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]
