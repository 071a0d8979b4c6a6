"""The activator on loopback, pinned to one core, beside a C relay on splice(2) on the same core."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.common import Row, median

_NATIVE = Path(__file__).parent / "native"
_TOKEN = "a-token-for-the-bench"
_REPEATS = 5
_SECONDS = "2"
_SOURCE, _ECHO, _LATE = 19501, 19502, 19503
_RELAY_BULK, _RELAY_ECHO = 19511, 19512


def build(folder: Path) -> tuple[Path, Path]:
    """Compile the relay and the load generator.

    Raises:
        RuntimeError: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler: install gcc")
    made = []
    for name in ("relay", "load"):
        subprocess.run(
            [compiler, "-O2", "-o", str(folder / name), str(_NATIVE / f"{name}.c")], check=True, timeout=120
        )
        made.append(folder / name)
    return made[0], made[1]


@contextlib.contextmanager
def running(*command: str, core: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process on one core until the block ends."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def used(process: subprocess.Popen[str]) -> float:
    """Give the processor time of a process so far, in seconds."""
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Figures:
    """What several runs of one kind gave: per second of the clock, and per second of processor time."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    failed: float = 0.0

    def measure(self, process: subprocess.Popen[str], load: Path, *arguments: str) -> None:
        """Run once against `process`."""
        before = used(process)
        rate, *failed = call(load, *arguments)
        self.clock.append(rate)
        self.processor.append(rate * float(_SECONDS) / max(used(process) - before, 0.01))
        self.failed += sum(failed)


def call(load: Path, *arguments: str) -> list[float]:
    """Run the load generator on the second core."""
    done = subprocess.run(
        ["taskset", "-c", "1", str(load), *arguments], check=True, capture_output=True, text=True, timeout=120
    )
    return [float(word) for word in done.stdout.split()]


def put(control: str, path: str, body: object) -> dict[str, dict[str, dict[str, int]]]:
    """Send a table to the activator."""
    request = urllib.request.Request(
        f"{control}{path}",
        data=json.dumps(body).encode(),
        method="PUT",
        headers={"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, dict[str, dict[str, int]]] = json.load(answer)
        return found


@contextlib.contextmanager
def activator(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, dict[str, int]]]:
    """Run an activator with one model each for bulk, echo and a pod that comes late."""
    token = folder / "token"
    token.write_text(_TOKEN)
    command = [sys.executable, "-m", "longshore_activator", "--token-file", str(token)]
    command += ["--bind", "127.0.0.1", "--control-bind", "127.0.0.1", "--control-port", "0"]
    with running(*command, "--drain-delay", "0", "--drain-timeout", "0", core=0) as process:
        assert process.stderr is not None
        line = ""
        while "control on" not in line:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError("the activator ended at once")
        control = "http://" + json.loads(line)["message"].removeprefix("control on ")
        here = [{"address": "127.0.0.1", "ready": True}]
        routes: list[dict[str, object]] = [
            {"key": f"bench/{name}", "ports": [{"listen": 0, "target": target}], "endpoints": endpoints}
            for name, target, endpoints in (
                ("bulk", _SOURCE, here),
                ("echo", _ECHO, here),
                ("late", _LATE, []),
            )
        ]
        routes[2]["readiness"] = {"mode": "Tcp"}
        ports = put(control, "/v1/routes", {"version": 1, "routes": routes})["ports"]
        yield process, control, {key.removeprefix("bench/"): found["http"] for key, found in ports.items()}


def rows() -> tuple[Row, ...]:
    """Measure; each figure is the median of several runs that alternate between both relays."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        relay, load = build(folder)
        for role, port in (("source", _SOURCE), ("echo", _ECHO)):
            stack.enter_context(running(str(load), role, str(port), core=1))
        c_bulk = stack.enter_context(running(str(relay), str(_RELAY_BULK), str(_SOURCE), core=0))
        c_new = stack.enter_context(running(str(relay), str(_RELAY_ECHO), str(_ECHO), core=0))
        ours, control, ports = stack.enter_context(activator(folder))
        time.sleep(0.5)
        bulk, theirs_bulk, new, theirs_new = Figures(), Figures(), Figures(), Figures()
        for _ in range(_REPEATS):
            theirs_bulk.measure(c_bulk, load, "pull", str(_RELAY_BULK), _SECONDS)
            bulk.measure(ours, load, "pull", str(ports["bulk"]), _SECONDS)
            theirs_new.measure(c_new, load, "connect", str(_RELAY_ECHO), _SECONDS, "64")
            new.measure(ours, load, "connect", str(ports["echo"]), _SECONDS, "64")
        lost, longest = _burst(stack, load, control, ports["late"])
    gigabyte = 1e9
    return (
        Row(
            "activator-bulk",
            median(bulk.clock) / gigabyte,
            "GB/s",
            ">=",
            2.0,
            f"a C relay on splice(2) beside it {median(theirs_bulk.clock) / gigabyte:.2f} GB/s",
        ),
        Row(
            "activator-bulk-per-core-second",
            median(bulk.processor) / gigabyte,
            "GB",
            ">=",
            2.0,
            "bytes over the activator's own processor time, which a busy machine disturbs less; "
            f"the C relay {median(theirs_bulk.processor) / gigabyte:.2f} GB",
        ),
        Row("activator-bulk-against-c", median(bulk.clock) / median(theirs_bulk.clock), "x", ">=", 1.0),
        Row(
            "activator-new-connections",
            round(median(new.clock)),
            "1/s",
            ">=",
            15_000,
            f"a C relay on splice(2) beside it {median(theirs_new.clock):.0f}/s; failed {new.failed:.0f}",
        ),
        Row(
            "activator-new-connections-per-core-second",
            round(median(new.processor)),
            "connections",
            ">=",
            15_000,
            f"the C relay {median(theirs_new.processor):.0f}",
        ),
        Row(
            "activator-burst-lost",
            lost,
            "connections",
            "==",
            0,
            f"200 at once, no pod for 2 s; the last answer after {longest:.2f} s",
        ),
    )


def _burst(stack: contextlib.ExitStack, load: Path, control: str, port: int) -> tuple[int, float]:
    client = subprocess.Popen(
        ["taskset", "-c", "1", str(load), "burst", str(port), "200", "30"], stdout=subprocess.PIPE, text=True
    )
    put(control, "/v1/routes/bench/late/endpoints", {"endpoints": [{"address": "127.0.0.1"}]})
    time.sleep(2)
    stack.enter_context(running(str(load), "echo", str(_LATE), core=1))
    output, _ = client.communicate(timeout=60)
    _, lost, longest = (float(word) for word in output.split())
    return int(lost), longest
