"""Starts each server under test on one core, and ends it with everything it has started."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from e2e.uv import find_uv

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "bench"
HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = "0", "1"
START_SECONDS = 120.0

# Pinned, so that a figure can be measured again.
COMPETITORS = {
    "mlserver": ("mlserver==1.7.1", "onnxruntime==1.22.1"),
    "kserve": ("kserve==0.21.0", "onnxruntime==1.22.1"),
    "litserve": ("litserve==0.2.19", "onnxruntime==1.22.1"),
    "tensorflow": ("tensorflow-serving-api==2.21.0",),
}


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    started: float  # seconds from start to ready

    def pids(self) -> list[int]:
        """The process and all its descendants."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
        return found

    def pss_mb(self) -> float:
        """Proportional set size of all processes, in MB."""
        return self._memory_mb("Pss:")

    def own_mb(self) -> float:
        """Memory of all processes that no file backs, in MB: a library's share of the PSS falls and rises
        with the other processes of the machine that use the same one.
        """
        return self._memory_mb("Pss_Anon:")

    def _memory_mb(self, field: str) -> float:
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(field):
                    total += int(line.split()[1])
        return total / 1024

    def cpu_seconds(self) -> float:
        """Processor time of all processes."""
        return sum(self.times())

    def times(self) -> tuple[float, float]:
        """Processor time of all processes in their own code and in the kernel, in seconds."""
        user = kernel = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            user += int(fields[11])
            kernel += int(fields[12])
        tick = os.sysconf("SC_CLK_TCK")
        return user / tick, kernel / tick

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def prefer(pid: int) -> None:
    """Put a process's session before whatever else the machine does, where that is allowed.

    Both sides of every comparison get the same; their threads share their core as they always do.
    """
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-20")


@contextmanager
def running(
    command: Sequence[str], http: int, grpc: int, ready: str, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    log = (CACHE / "last-server.log").open("wb")
    before = time.perf_counter()
    process = subprocess.Popen(
        ["taskset", "-c", SERVER_CORE, *command],
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **(environment or {})},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    prefer(process.pid)
    try:
        _wait(process, f"http://127.0.0.1:{http}{ready}")
        yield Running(process, http, grpc, time.perf_counter() - before)
    finally:
        log.close()
        _end(process)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            text = (CACHE / "last-server.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the server ended with {process.returncode}: {text}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"{url} did not answer within {START_SECONDS} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, wait in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(wait)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def on_server_core(code: str, *arguments: object) -> float:
    """What a Python program prints that runs where the servers do."""
    command = ["taskset", "-c", SERVER_CORE, sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    prefer(process.pid)
    return float(process.communicate(timeout=120)[0])


@contextmanager
def longshore(model: Path, name: str, *flags: str) -> Iterator[Running]:
    http, grpc = free_ports(2)
    command = [
        *(sys.executable, "-m", "longshore_server", "--model", str(model), "--name", name),
        *("--host", "127.0.0.1", "--http-port", str(http), "--grpc-port", str(grpc)),
        *("--drain-delay", "0", "--log-level", "warning", *flags),
    ]
    # Bytecode is there, as it is in the image.
    compiled = {"PYTHONPYCACHEPREFIX": str(CACHE / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    with running(command, http, grpc, "/v2/health/ready", compiled) as server:
        yield server


@contextmanager
def triton(repository: Path) -> Iterator[Running]:
    """nvidia-pytriton's tritonserver with the Python-based onnxruntime backend of images/triton."""
    home = CACHE / "triton-server"
    subprocess.run(
        [
            sys.executable,
            str(ROOT / "images/triton/assemble.py"),
            str(home),
            "--uv",
            find_uv() or "uv",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    http, grpc, metrics = free_ports(3)
    server = home / "tritonserver"
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
        *("--disable-auto-complete-config", "--exit-timeout-secs=2"),
    ]
    environment = {
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{Path(sys.base_prefix) / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }
    with running(command, http, grpc, "/v2/health/ready", environment) as running_server:
        yield running_server


def compiled(name: str) -> Path:
    """The program of `NAME.c`, built when it is not there yet."""
    source = HERE / f"{name}.c"
    built = CACHE / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not built.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-o", str(built), str(source), "-lm"], check=True)
    return built


@contextmanager
def echo() -> Iterator[Running]:
    """No model server: what sockets alone allow."""
    (http,) = free_ports(1)
    with running([str(compiled("echo")), str(http)], http, 0, "/") as server:
        yield server


def competitor_python(name: str) -> Path:
    """The interpreter of a competitor's own environment, made on first use."""
    home = CACHE / name
    done = home / ".done"
    packages = "\n".join(COMPETITORS[name])
    if not done.is_file():
        subprocess.run(
            ["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(home)], check=True
        )
        install = ["uv", "pip", "install", "--quiet", "--python", str(home / "bin" / "python")]
        subprocess.run([*install, *COMPETITORS[name]], check=True)
        done.write_text(packages)
    return home / "bin" / "python"


@contextmanager
def mlserver(model: Path) -> Iterator[Running]:
    http, grpc, metrics = free_ports(3)
    home = CACHE / "mlserver-models"
    home.mkdir(exist_ok=True)
    shutil.copy(HERE / "competitors" / "mlserver_model.py", home)
    settings = f'"http_port": {http}, "grpc_port": {grpc}, "metrics_port": {metrics}, "parallel_workers": 0'
    (home / "settings.json").write_text(f'{{"host": "127.0.0.1", "debug": false, {settings}}}')
    (home / "model-settings.json").write_text(
        '{"name": "small", "implementation": "mlserver_model.OnnxModel"}'
    )
    command = [str(competitor_python("mlserver").parent / "mlserver"), "start", str(home)]
    environment = {"BENCH_MODEL": str(model), "PYTHONPATH": str(home)}
    with running(command, http, grpc, "/v2/health/ready", environment) as server:
        yield server


@contextmanager
def kserve(model: Path) -> Iterator[Running]:
    http, grpc = free_ports(2)
    script = HERE / "competitors" / "kserve_model.py"
    command = [str(competitor_python("kserve")), str(script), str(http), str(grpc)]
    with running(command, http, grpc, "/v2/health/ready", {"BENCH_MODEL": str(model)}) as server:
        yield server


@contextmanager
def litserve(model: Path) -> Iterator[Running]:
    (http,) = free_ports(1)
    command = [str(competitor_python("litserve")), str(HERE / "competitors" / "litserve_app.py"), str(http)]
    with running(command, http, 0, "/health", {"BENCH_MODEL": str(model)}) as server:
        yield server
