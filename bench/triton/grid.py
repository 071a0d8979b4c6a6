"""The generated batching configuration against the best that a grid search finds."""

import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from longshore_triton import gathering, modelconfig
from longshore_triton.backends import in_python, installed
from longshore_triton.repository import plan_repository
from longshore_triton.wanted import Wanted

from bench.common import Row, median
from bench.triton.startup import bare_server
from tests.server import models
from tests.tritonhome import ROOT, triton_home

CONNECTIONS = 32
FEWER = (8, 1)
"""Clients for which the grid was not searched."""
OBJECTIVE_SECONDS = 0.1
SECONDS = 2.0
FINAL_TURNS = 3
TARGET_SHARE = 0.95
SIZES: tuple[tuple[int, ...], ...] = ((), (4,), (8,), (16,), (32,))
DELAYS_US = (0, 500, 2000)
INSTANCES = (1, 2)
LOAD = ROOT / ".cache" / "bench" / "load"


@dataclass(frozen=True)
class Setting:
    """One point of the grid; None stands for the generated configuration."""

    sizes: tuple[int, ...]
    delay_us: int
    instances: int


@dataclass(frozen=True)
class Figure:
    """What one run reached: requests a second, and the 99th percentile of latency in seconds."""

    rate: float
    p99: float


def rows(directory: Path) -> tuple[Row, ...]:
    """Search the grid, then compare its best with the generated configuration in alternating runs."""
    _build_load()
    found = []
    for name, sizes in (("small", (64, 256, 64)), ("large", (512, 2048, 2048, 512))):
        model = models.mlp(directory / name, sizes)
        request = directory / f"{name}.request"
        request.write_bytes(_request(sizes[0]))
        generated = _config(model)
        searched = {}
        for setting in (Setting(*point) for point in itertools.product(SIZES, DELAYS_US, INSTANCES)):
            searched[setting] = _run(directory / "grid", model, _with(generated, setting), request)
        within = {s: f for s, f in searched.items() if f.p99 <= OBJECTIVE_SECONDS}
        best = max(within or searched, key=lambda s: searched[s].rate)
        ours, theirs = [], []
        for _ in range(FINAL_TURNS):
            ours.append(_run(directory / "grid", model, generated, request, preload=True))
            theirs.append(_run(directory / "grid", model, _with(generated, best), request))
        rate, other = median(f.rate for f in ours), median(f.rate for f in theirs)
        p99 = median(f.p99 for f in ours)
        fewer = [
            median(
                _run(directory / "grid", model, generated, request, n, preload=True).rate
                for _ in range(FINAL_TURNS)
            )
            / median(
                _run(directory / "grid", model, _with(generated, best), request, n).rate
                for _ in range(FINAL_TURNS)
            )
            for n in FEWER
        ]
        found += [
            Row(
                f"generated batching against the best of a grid, {name} model",
                round(rate / other, 3),
                "of its throughput",
                ">=",
                TARGET_SHARE,
                note=(
                    f"{rate:,.0f} rps; best of {len(searched)}: {other:,.0f} rps with preferred sizes "
                    f"{list(best.sizes)}, delay {best.delay_us} us, {best.instances} instances, the best for "
                    f"exactly {CONNECTIONS} clients: "
                    + ", ".join(
                        f"with {n} the generated one has {ratio:.2f} of its throughput"
                        for n, ratio in zip(FEWER, fewer, strict=True)
                    )
                ),
            ),
            Row(
                f"99th percentile of the generated configuration, {name} model",
                round(p99 * 1000, 1),
                "ms",
                "<=",
                OBJECTIVE_SECONDS * 1000,
            ),
        ]
    return tuple(found)


def _config(model: Path) -> modelconfig.ModelConfig:
    wanted = Wanted(name="mlp", cpu_millicores=1000, objective_us=round(OBJECTIVE_SECONDS * 1e6))
    backends = triton_home().home / "backends"
    (planned,) = plan_repository(model, wanted, installed(backends), in_python(backends)).models
    return planned.config


def _with(generated: modelconfig.ModelConfig, setting: Setting) -> modelconfig.ModelConfig:
    config = modelconfig.empty()
    config.CopyFrom(generated)
    # Without preferred sizes only this bounds what is joined.
    config.max_batch_size = 32
    del config.dynamic_batching.preferred_batch_size[:]
    config.dynamic_batching.preferred_batch_size.extend(setting.sizes)
    config.dynamic_batching.max_queue_delay_microseconds = setting.delay_us
    config.instance_group[0].count = setting.instances
    return config


def _run(
    directory: Path,
    model: Path,
    config: modelconfig.ModelConfig,
    request: Path,
    connections: int = CONNECTIONS,
    *,
    preload: bool = False,
) -> Figure:
    """Measure one configuration; `preload` says with what a pod loads into the server for it."""
    shutil.rmtree(directory, ignore_errors=True)
    home = directory / "mlp"
    home.mkdir(parents=True)
    (home / modelconfig.FILE).write_text(modelconfig.render(config))
    (home / "1").symlink_to(model.resolve(), target_is_directory=True)
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    added = gathering.environment({}, triton_home().home, [config]) if preload else {}
    prefix = ("taskset", "-c", str(first), "env", *(f"{name}={value}" for name, value in added.items()))
    with bare_server(directory, prefix=prefix) as port:
        _until_ready(port)
        load = ["taskset", "-c", str(last), str(LOAD), "http", str(port), str(connections)]
        subprocess.run([*load, "0.5", "0", str(request)], check=True, capture_output=True)
        done = subprocess.run([*load, str(SECONDS), "0", str(request)], check=True, capture_output=True)
    answer = json.loads(done.stdout)
    if answer["bad"]:
        raise RuntimeError(f"{answer['bad']} requests failed")
    return Figure(answer["rps"], answer["p99"] / 1e6)


def _request(width: int) -> bytes:
    row = b"\x00\x00\x80\x3f" * width
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, width],
                    "parameters": {"binary_data_size": len(row)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return (
        b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\n"
        + f"Inference-Header-Content-Length: {len(head)}\r\n".encode()
        + f"Content-Length: {len(head) + len(row)}\r\n\r\n".encode()
        + head
        + row
    )


def _until_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise TimeoutError("tritonserver did not get ready within a minute")


def _build_load() -> None:
    source = ROOT / "bench" / "server" / "load.c"
    if LOAD.exists() and LOAD.stat().st_mtime > source.stat().st_mtime:
        return
    LOAD.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-o", str(LOAD), str(source), "-lm"], check=True)
