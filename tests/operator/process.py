"""`longshore operator run` as a process of its own, for tests of what only a whole process shows."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from e2e.cluster.apiserver import ApiServer

T = TypeVar("T")


def until(check: Callable[[], T], seconds: float = 40) -> T:
    """Await a condition; gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.05)
    return found


class OperatorProcess:
    """One operator on one API server."""

    def __init__(
        self, server: ApiServer, namespace: str, log: Path, *more: str, kubeconfig: Path | None = None
    ) -> None:
        self._log = log
        arguments = ["--namespace", namespace, "--lease-namespace", namespace, "--host", "127.0.0.1"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).with_name("longshore")), "operator", "run"),
                    *(*arguments, "--port", "0", "--json-logs", *more),
                ],
                env={**os.environ, "KUBECONFIG": str(kubeconfig or server.kubeconfig)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)

    def lines(self) -> list[dict[str, Any]]:
        """Give the log so far; every line must be JSON."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.strip()]

    def text(self) -> str:
        """Give what it printed."""
        return self._log.read_text()

    @property
    def url(self) -> str:
        """Address of its probes, awaited."""

        def said() -> str | None:
            assert self.process.poll() is None, self.text()
            return next(
                (line["message"] for line in self.lines() if "probes and metrics" in line["message"]), None
            )

        message = until(said)
        assert message is not None
        return f"http://127.0.0.1:{message.rpartition(' ')[2]}"

    def get(self, path: str) -> httpx.Response:
        """Ask its probes."""
        return httpx.get(self.url + path, trust_env=False, timeout=10)

    def metrics(self) -> dict[str, float]:
        """Read its metrics by name with labels."""
        lines = [line for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def stop(self) -> int:
        """Ask it to end; gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)
