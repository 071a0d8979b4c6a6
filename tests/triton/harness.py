"""Starts Triton as its pods do: `longshore-triton` over an artifact, on free ports."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from e2e.ports import free_ports
from tests.tritonhome import ROOT, triton_home

READY_SECONDS = 60.0


class Triton:
    """`with Triton(model, name=...) as server:` gives a server that is ready, and ends it."""

    def __init__(
        self,
        model: Path,
        directory: Path,
        *,
        wait: bool = True,
        program: Sequence[str] = ("-m", "longshore_triton"),
        home: Path | None = None,
        environment: Mapping[str, str] | None = None,
        **wanted: Any,
    ) -> None:
        """Prepare; `directory` takes the repository and logs, `wanted` is what an operator would ask for.

        `program`, `home` and `environment` are of another Triton than the one assembled from PyPI.
        """
        self.http_port, self.grpc_port, self.metrics_port, self.samples_port = free_ports(4)
        self.name = wanted.setdefault("name", "model")
        self.directory = directory
        self.termination_log = directory / "termination-log"
        self._wait = wait
        triton = triton_home()
        ports = {
            "http_port": self.http_port,
            "grpc_port": self.grpc_port,
            "metrics_port": self.metrics_port,
            "samples_port": self.samples_port,
        }
        self._command = [
            *(
                str(triton.python),
                *program,
                "--home",
                str(home or triton.home),
                "--model",
                str(model),
            ),
            *("--repository", str(directory / "repository"), "--termination-log", str(self.termination_log)),
        ]
        self._environment = {
            **os.environ,
            "LONGSHORE_TRITON": json.dumps({"drain_seconds": 0, **ports, **wanted}),
            "PATH": f"{triton.python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "images/triton/src"),
            **(environment or {}),
        }

    def __enter__(self) -> "Triton":
        self._log = (self.directory / "log").open("w+")
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdout=self._log, stderr=self._log, text=True
        )
        if self._wait:
            try:
                self._until_ready()
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        self._log.close()

    def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"it ended: {self.log()}"
            # Triton opens the port of its metrics last.
            if self.status("/v2/health/ready") == 200 and self._listens(self.metrics_port):
                return
            time.sleep(0.02)
        raise AssertionError(f"it did not get ready: {self.log()}")

    @staticmethod
    def _listens(port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return True
        except OSError:
            return False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def log(self) -> str:
        self._log.flush()
        return (self.directory / "log").read_text()

    def report(self) -> dict[str, Any]:
        """What the container leaves for the operator when it ends by itself."""
        report: dict[str, Any] = json.loads(self.termination_log.read_text())
        return report

    def status(self, path: str) -> int | None:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None
