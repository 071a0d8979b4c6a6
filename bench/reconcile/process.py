"""The operator as a process of its own: its CPU time, its memory, what it wrote."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

Answer = TypeVar("Answer")

_TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 60


@dataclass(frozen=True)
class Counters:
    """What the operator counted at its transport since it started; renewals of the Lease stand apart."""

    reads: int
    writes: int
    lease_writes: int
    reconciles: int


class Operator:
    """`longshore operator run` with one kubeconfig, working in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, log: Path) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._log = log
        self._port = 0

    async def __aenter__(self) -> Self:
        self._port = _free_port()
        self._output = self._log.open("ab")
        self._process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("longshore")), "operator", "run"),
            *("--namespace", self._namespace, "--lease-namespace", self._namespace),
            *("--host", "127.0.0.1", "--port", str(self._port), "--json-logs"),
            # As installed: Python's byte code is cached.
            env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
            | {"KUBECONFIG": str(self._kubeconfig)},
            stdout=self._output,
            stderr=self._output,
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the operator did not start; its log: {self._log}")
            try:
                if (await self.gauge("longshore_leader")) == 1:
                    return self
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.1)

    async def during(self, work: Awaitable[Answer]) -> Answer:
        """Wait for `work`; raises RuntimeError as soon as the operator ends before it."""
        working, ended = asyncio.ensure_future(work), asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise RuntimeError(f"the operator ended with {ended.result()}; its log: {self._log}")
            return working.result()
        finally:
            for task in (working, ended):
                task.cancel()

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._process.wait(), 30)
        self._output.close()

    def cpu_seconds(self) -> float:
        """Give user and system time since the process started, its start included."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_mebibytes(self) -> float:
        """Give the largest resident set so far."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("the kernel does not tell VmHWM")

    async def counters(self) -> Counters:
        """Read the counters."""
        samples = await self._samples()
        requests = [
            (labels, value) for name, labels, value in samples if name == "longshore_api_requests_total"
        ]
        writes = [(labels, value) for labels, value in requests if labels["verb"] != "GET"]
        return Counters(
            reads=int(sum(value for labels, value in requests if labels["verb"] == "GET")),
            writes=int(sum(value for labels, value in writes if labels["kind"] != "leases")),
            lease_writes=int(sum(value for labels, value in writes if labels["kind"] == "leases")),
            reconciles=int(sum(v for name, _, v in samples if name == "longshore_reconcile_total")),
        )

    async def gauge(self, name: str) -> float:
        """Read one gauge."""
        return next((value for known, _, value in await self._samples() if known == name), 0.0)

    async def quiet(self, seconds: float, most: float) -> Counters:
        """Wait until nothing was written for `seconds`, for `most` seconds at most."""
        deadline = time.monotonic() + most
        last, since = await self.counters(), time.monotonic()
        while time.monotonic() - since < seconds:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the operator still writes after {most:.0f} s")
            await asyncio.sleep(0.5)
            found = await self.counters()
            if found.writes != last.writes:
                last, since = found, time.monotonic()
        return last

    async def _samples(self) -> list[tuple[str, dict[str, str], float]]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{self._port}/metrics", timeout=10)
        families = text_string_to_metric_families(answer.text)
        return [(s.name, s.labels, s.value) for family in families for s in family.samples]


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
