"""`python -m bench.server`: the server against Triton, MLServer, KServe and LitServe, one core each side.

The measured pairs alternate in short turns, and the median of the turns' ratios counts, so that what else the
machine does meets both sides alike.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench.common import RESULTS, Report, Row
from bench.server import load, servers
from bench.server.load import Ask
from bench.server.servers import Running
from tests.server import models

# The Python-based onnxruntime backend is slower than Triton's native one by these factors, so what is
# measured against it must be better by them: HTTP 23.4k / 14.2k, gRPC 37.2k / 25.0k requests a second on
# the small model.
HTTP_FACTOR, GRPC_FACTOR = 1.65, 1.49
TYPICAL_START = 0.3

CONFIG = """name: "{name}"
backend: "onnxruntime"
max_batch_size: 64
input [{{ name: "x" data_type: TYPE_FP32 dims: [{inputs}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{outputs}] }}]
dynamic_batching {{}}
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""


class Bench:
    def __init__(
        self, work: Path, seconds: float, turns: int, soak: float, open_loop: float, fuzz: float
    ) -> None:
        self.work = work
        self.seconds = seconds
        self.turns = turns
        self.soak = soak
        self.open_loop = open_loop
        self.fuzz = fuzz
        self.rows: list[Row] = []
        self.figures: dict[str, float] = {}

    def add(self, row: Row) -> None:
        self.rows.append(row)
        Report("server", tuple(self.rows)).print()

    def model(self, name: str, sizes: tuple[int, ...]) -> Path:
        directory = self.work / name
        if not directory.exists():
            models.mlp(directory, sizes)
            self.repository(name, directory, sizes[0], sizes[-1])
        return directory

    def wide(self, name: str, size: int) -> Path:
        """One cheap operator on a long row: what is measured is how tensors travel."""
        from onnx import TensorProto, helper

        directory = self.work / name
        if not directory.exists():
            nodes = [helper.make_node("Relu", ["x"], ["y"])]
            float32 = TensorProto.FLOAT
            models.save(directory, nodes, [("x", float32, ["N", size])], [("y", float32, ["N", size])])
            self.repository(name, directory, size, size)
        return directory

    def repository(self, name: str, directory: Path, inputs: int, outputs: int) -> None:
        version = self.work / f"{name}-repository" / name / "1"
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes((directory / "model.onnx").read_bytes())
        config = CONFIG.format(name=name, inputs=inputs, outputs=outputs)
        (version.parent / "config.pbtxt").write_text(config)

    @contextmanager
    def pair(self, name: str, directory: Path) -> Iterator[tuple[Running, Running]]:
        with (
            servers.longshore(directory, name) as ours,
            servers.triton(self.work / f"{name}-repository") as theirs,
        ):
            yield ours, theirs

    def ratio(self, pair: tuple[Running, Running], ask: Ask, connections: int) -> tuple[float, float, float]:
        """Median ratio of requests a second, and the medians of both sides."""
        ratios, mine, other = [], [], []
        for one in pair:
            load.run(one, ask, connections, 0.5)
        for _ in range(self.turns):
            ours, theirs = (load.run(one, ask, connections, self.seconds) for one in pair)
            if ours.bad or theirs.bad:
                raise RuntimeError(f"{ours.bad} and {theirs.bad} requests failed")
            ratios.append(ours.rps / theirs.rps)
            mine.append(ours.rps)
            other.append(theirs.rps)
        return statistics.median(ratios), statistics.median(mine), statistics.median(other)

    def small(self) -> None:
        directory = self.model("small", (16, 32, 32, 8))
        asks = self.asks()
        targets = {
            "json": (HTTP_FACTOR, 2.5, 4.0),
            "binary": (HTTP_FACTOR, 3.0, 4.5),
            "grpc": (GRPC_FACTOR, 1.0, 1.5),
        }
        with self.pair("small", directory) as pair:
            for kind, (factor, target, stretch) in targets.items():
                ask = asks[kind]
                ratio, ours, theirs = self.ratio(pair, ask, 64)
                self.figures[f"{kind}64"] = ours
                note = (
                    f"{ours:,.0f} against {theirs:,.0f} requests a second, its {theirs:,.0f} counted as "
                    f"{theirs * factor:,.0f}; stretch {stretch}"
                )
                self.add(Row(f"small-{kind}-64-vs-triton", round(ratio / factor, 2), "x", ">=", target, note))
            for kind, ask in asks.items():
                p50s = [[load.run(one, ask, 1, self.seconds).p50 for one in pair] for _ in range(self.turns)]
                ours, theirs = (statistics.median(column) for column in zip(*p50s, strict=True))
                row = Row(
                    f"one-connection-{kind}-p50",
                    round(ours, 1),
                    "us",
                    "<=",
                    round(theirs, 1),
                    "target: Triton's",
                )
                self.add(row)

    def tails(self) -> None:
        """The small model under an open loop, in each protocol."""
        directory = self.model("small", (16, 32, 32, 8))
        for kind, ask in self.asks().items():
            if f"{kind}64" not in self.figures:
                with servers.longshore(directory, "small") as server:
                    load.run(server, ask, 64, 0.5)
                    peaks = [load.run(server, ask, 64, self.seconds).rps for _ in range(self.turns)]
                self.figures[f"{kind}64"] = statistics.median(peaks)
            self.tail(kind, ask, directory)

    def asks(self) -> dict[str, Ask]:
        """A request to the small model in each protocol."""
        array = load.sample((1, 16))
        return {
            "json": load.json_ask("small", array),
            "binary": load.binary_ask("small", array),
            "grpc": load.grpc_ask("small", array),
        }

    def tail(self, kind: str, ask: Ask, directory: Path) -> None:
        """p99 of an open loop at 70 % of the own peak, and Triton's at the same rate."""
        rate = 0.7 * self.figures[f"{kind}64"]
        with servers.longshore(directory, "small") as server:
            ours = load.run(server, ask, 64, self.open_loop, rate)
        with servers.triton(self.work / "small-repository") as server:
            theirs = load.run(server, ask, 64, self.open_loop, rate)
        note = (
            f"{rate:,.0f} a second for {ours.seconds:.0f} s (wanted: 60 s), {ours.dropped:,} dropped; "
            f"Triton answered {theirs.rps:,.0f} of them"
        )
        row = Row(
            f"open-loop-{kind}-p99", round(ours.p99 / 1e3, 2), "ms", "<=", round(theirs.p99 / 1e3, 2), note
        )
        self.add(row)

    def compute_bound(self) -> None:
        directory = self.model("heavy", (512, 1408, 1408, 1408, 512))
        megabytes = (directory / "model.onnx").stat().st_size / 1e6
        ask = load.binary_ask("heavy", load.sample((1, 512)))
        with self.pair("heavy", directory) as pair:
            ratio, ours, theirs = self.ratio(pair, ask, 64)
            pairs = [
                (load.run(pair[0], ask, 64, self.seconds).rps, self.raw_runtime(directory, 512))
                for _ in range(self.turns)
            ]
            profile = self.profile(pair[0], ask, 64)
        share = statistics.median(mine / alone for mine, alone in pairs)
        mine, raw = (statistics.median(column) for column in zip(*pairs, strict=True))
        note = (
            f"{megabytes:.0f} MB, {ours:,.0f} against {theirs:,.0f} requests a second; "
            f"{self.limit(ask, 64, raw, theirs)}"
        )
        self.add(Row("compute-bound-64-vs-triton", round(ratio / HTTP_FACTOR, 2), "x", ">=", 1.3, note))
        note = f"{mine:,.0f}; ONNX Runtime alone, best batch of 1 to 64: {raw:,.0f} rows a second; {profile}"
        self.add(Row("compute-bound-64-vs-runtime", round(share, 2), "x", ">=", 0.75, note))

    def limit(self, ask: Ask, connections: int, raw: float, theirs: float) -> str:
        """What one core allows: a request takes the runtime's time for a row and the sockets' for a request.

        The sockets' time is that of a C program that answers with what it is asked.
        """
        with servers.echo() as server:
            load.run(server, ask, connections, 0.5)
            found = [load.run(server, ask, connections, self.seconds) for _ in range(self.turns)]
        # The client may be the slower side, so what counts is the processor time.
        sockets = statistics.median(one.per_cpu_second for one in found)
        limit = 1 / (1 / raw + 1 / sockets)
        return (
            f"sockets in C ({sockets:,.0f}) and the runtime alone ({raw:,.0f}) would make {limit:,.0f}, "
            f"{limit / theirs / HTTP_FACTOR:.2f} x"
        )

    def profile(self, server: Running, ask: Ask, connections: int) -> str:
        """Where our server's processor time goes: the kernel (sockets, copies to and from them), the run of
        the model, and the rest: Python, the parser, copies.
        """
        before, ran = server.times(), server.metric("longshore_compute_time_seconds_total")
        load.run(server, ask, connections, 2 * self.seconds)
        user, kernel = (b - a for a, b in zip(before, server.times(), strict=True))
        model = server.metric("longshore_compute_time_seconds_total") - ran
        shares = (part / (user + kernel) for part in (kernel, model, user - model))
        return "our time: {:.0%} kernel, {:.0%} model, {:.0%} Python".format(*shares)

    def raw_runtime(self, directory: Path, width: int) -> float:
        """Rows of `width` values that the runtime alone runs in a second, in its best batch, on the server's
        core.
        """
        code = (
            "import os,sys,time\nos.environ['ORT_DISABLE_TELEMETRY']='1'\n"
            "import numpy as np,onnxruntime as ort\n"
            "o=ort.SessionOptions();o.intra_op_num_threads=1\ns=ort.InferenceSession(sys.argv[1],o)\nbest=0\n"
            "for b in (1,4,8,16,32,64):\n"
            " x=np.random.rand(b,int(sys.argv[2])).astype('f4')\n s.run(None,{'x':x})\n"
            " t=time.perf_counter();n=0\n while time.perf_counter()-t<.5: s.run(None,{'x':x});n+=b\n"
            " best=max(best,n/(time.perf_counter()-t))\nprint(best)"
        )
        return servers.on_server_core(code, directory / "model.onnx", width)

    def large_tensors(self) -> None:
        directory = self.wide("wide", 150_000)
        ask = load.binary_ask("wide", load.sample((1, 150_000)))
        with self.pair("wide", directory) as pair:
            ratio, ours, theirs = self.ratio(pair, ask, 8)
            profile = self.profile(pair[0], ask, 8)
        note = (
            f"{ours:,.0f} against {theirs:,.0f} requests a second of 600 KB each way; "
            f"{self.limit(ask, 8, self.raw_runtime(directory, 150_000), theirs)}; {profile}"
        )
        self.add(Row("600kb-8-vs-triton", round(ratio / HTTP_FACTOR, 2), "x", ">=", 4.0, note))

    def python_servers(self) -> None:
        """Each protocol against the same of theirs; where they lack one, against their JSON."""
        directory = self.model("small", (16, 32, 32, 8))
        file, ours = directory / "model.onnx", self.asks()
        lit = load.json_ask("small", load.sample((1, 16)), "/predict")
        starts: dict[str, tuple[Callable[[Path], AbstractContextManager[Running]], dict[str, Ask]]] = {
            "mlserver": (servers.mlserver, {"json": ours["json"], "grpc": ours["grpc"]}),
            "kserve": (servers.kserve, ours),
            "litserve": (servers.litserve, {"json": lit}),
        }
        for name, (start, theirs) in starts.items():
            with servers.longshore(directory, "small") as server, start(file) as other:
                load.answers(other, theirs["json"])
                for kind, ask in ours.items():
                    self.against(name, kind, (server, ask), (other, theirs.get(kind, theirs["json"])))
                    if kind not in theirs:
                        note = f"; {name} has no such requests: its JSON"
                        self.rows[-1] = dataclasses.replace(self.rows[-1], note=self.rows[-1].note + note)

    def against(self, name: str, kind: str, ours: tuple[Running, Ask], theirs: tuple[Running, Ask]) -> None:
        """One protocol against another server, in turns."""
        ratios, pairs = [], []
        for _ in range(self.turns):
            mine, other = (load.run(server, ask, 64, self.seconds) for server, ask in (ours, theirs))
            if not other.good or other.bad or mine.bad:
                raise RuntimeError(f"{name}, {kind}: {other} against {mine}")
            ratios.append(mine.rps / other.rps)
            pairs.append((mine, other))
        note = f"{pairs[-1][0].rps:,.0f} against {pairs[-1][1].rps:,.0f} requests a second"
        self.add(
            Row(f"small-{kind}-64-vs-{name}", round(statistics.median(ratios), 1), "x", ">=", 10.0, note)
        )

    def start_and_memory(self) -> None:
        directory = self.model("small", (16, 32, 32, 8))
        with servers.longshore(directory, "small"):
            pass  # writes the bytecode
        found = []
        for _ in range(9):
            with servers.longshore(directory, "small") as server:
                found.append(server.started)
                time.sleep(1)
                memory = server.pss_mb()
        loading = self.load_seconds(directory)
        note = f"{TYPICAL_START:g} s + {loading * 1e3:.0f} ms that ONNX Runtime alone takes to load the model"
        target = round(TYPICAL_START + loading, 3)
        self.add(Row("start-to-ready", round(statistics.median(found), 3), "s", "<=", target, note))
        self.add(Row("memory-at-rest", round(memory, 1), "MB", "<=", 80.0, "PSS, small model, gRPC on"))

    def load_seconds(self, directory: Path) -> float:
        """What loading the model takes in a process that has imported the runtime, on the server's core."""
        code = (
            "import os,sys,time\nos.environ['ORT_DISABLE_TELEMETRY']='1'\nimport onnxruntime as ort\n"
            "o=ort.SessionOptions();o.intra_op_num_threads=1\nt=time.perf_counter()\n"
            "ort.InferenceSession(sys.argv[1],o)\nprint(time.perf_counter()-t)"
        )
        return statistics.median(servers.on_server_core(code, directory / "model.onnx") for _ in range(9))

    def clients(self) -> None:
        """The clients of KServe and of TensorFlow Serving, unmodified, each in its own environment."""
        directory = self.model("small", (16, 32, 32, 8))
        with servers.longshore(directory, "small") as server:
            self.client("kserve", "REST V1, V2 in JSON and binary, gRPC", server.http, server.grpc)
            self.client("tensorflow", "Predict in three ways, a mistake, GetModelStatus", server.grpc)

    def client(self, name: str, what: str, *ports: int) -> None:
        script = Path(__file__).parent / f"{name}_client.py"
        command = [str(servers.competitor_python(name)), str(script), *map(str, ports)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        package = servers.COMPETITORS[name][0]
        failure = (done.stderr.strip().splitlines() or ["no word"])[-1]
        note = f"{package}: {failure if done.returncode else what}"
        self.add(Row(f"{name}-client-failures", float(done.returncode != 0), "", "==", 0.0, note))

    def fuzzing(self) -> None:
        """Every parser for a share of the time."""
        total = 0
        for target in ("http", "http2", "infer"):
            seconds = max(math.ceil(self.fuzz / 3), 1)
            command = [sys.executable, "-m", "tests.server.fuzz", target, "--seconds", str(seconds)]
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=servers.CACHE, check=False, env=_path()
            )
            # libFuzzer's last words; they are absent after a crash.
            found = dict(re.findall(r"^stat::(\w+):\s+(\d+)$", done.stderr, re.MULTILINE))
            failed = done.returncode != 0 or not found
            total += 0 if failed else seconds
            note = (
                done.stderr[-300:].replace("\n", " ")
                if failed
                else f"{int(found['number_of_executed_units']):,} inputs in {seconds} s, at most "
                f"{found['peak_rss_mb']} MB"
            )
            self.add(Row(f"fuzz-{target}-failures", float(failed), "", "==", 0.0, note))
        self.add(Row("fuzz-duration", float(total), "s", ">=", 600.0, "really run, all parsers together"))

    def overload(self) -> None:
        directory = self.model("heavy", (512, 1408, 1408, 1408, 512))
        ask = load.binary_ask("heavy", load.sample((1, 512)))
        with servers.longshore(directory, "heavy") as server:
            peak = load.run(server, ask, 64, 2 * self.seconds).rps
            calm = server.pss_mb()
            flood = load.run(server, ask, 1024, 4 * self.seconds, 3 * peak)
            after = server.pss_mb()
        note = f"{flood.rps:,.0f} good answers a second of {3 * peak:,.0f} asked; {flood.bad:,} refused"
        self.add(Row("overload-goodput", round(flood.rps / peak, 2), "x", ">=", 0.9, note))
        self.add(
            Row(
                "overload-memory-growth",
                round(after - calm, 1),
                "MB",
                "<=",
                64.0,
                "1,024 connections, queue of 2,048",
            )
        )

    def soak_run(self) -> None:
        directory = self.model("small", (16, 32, 32, 8))
        ask = load.binary_ask("small", load.sample((1, 16)))
        with servers.longshore(directory, "small") as server:
            load.run(server, ask, 64, 5)
            peak = load.run(server, ask, 64, self.seconds).rps
            load.run(server, ask, 64, max(self.soak * 0.1, 5), peak / 2)
            before = server.own_mb()
            result = load.run(server, ask, 64, self.soak, peak / 2)
            growth = server.own_mb() - before
        note = (
            f"{result.seconds:,.0f} s at {peak / 2:,.0f} a second, {result.good:,} answered, "
            f"{result.bad} failed"
        )
        self.add(Row("soak-memory-growth", round(growth, 2), "MB", "<=", 2.0, note))
        self.add(Row("soak-failures", float(result.bad), "requests", "==", 0.0, note))
        # A machine with other work sends less: what was sent is told, not what was asked for.
        share = (result.good + result.bad) / max(result.seconds * peak, 1)
        note = f"really run, at {share:.2f} of the peak of {peak:,.0f} a second"
        self.add(Row("soak-duration", round(result.seconds), "s", ">=", 3600.0, note))


def earlier_rows() -> tuple[list[Row], dict[str, str]]:
    """The rows of the last results, for the parts that are not measured anew, and when each part was."""
    path = RESULTS / "server.json"
    if not path.is_file():
        return [], {}
    content = json.loads(path.read_text())
    rows = [
        Row(row["id"], row["value"], row["unit"], row["op"], row["target"], row.get("note", ""))
        for row in content["rows"]
        if not row["id"].endswith("-did-not-run")
    ]
    measured = content["environment"].get("measured", "")
    return rows, dict(part.split(": ", 1) for part in measured.split("; ") if part)


def _path() -> dict[str, str]:
    """The environment of a child that runs elsewhere and imports from here."""
    return {**os.environ, "PYTHONPATH": str(servers.ROOT)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.server", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--open-loop", type=float, default=60.0, help="seconds of each open loop")
    parser.add_argument("--soak", type=float, default=3600.0, help="seconds")
    parser.add_argument("--fuzz", type=float, default=600.0, help="seconds of fuzzing in all")
    parser.add_argument(
        "--only", default="", help="parts, comma separated; the last results' rows of the others are kept"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(
            Path(work), options.seconds, options.turns, options.soak, options.open_loop, options.fuzz
        )
        parts = {
            "small": bench.small,
            "open-loop": bench.tails,
            "compute": bench.compute_bound,
            "large": bench.large_tensors,
            "python": bench.python_servers,
            "start": bench.start_and_memory,
            "overload": bench.overload,
            "clients": bench.clients,
            "fuzz": bench.fuzzing,
            "soak": bench.soak_run,
        }
        measured: dict[str, str] = {}
        for name in options.only.split(",") if options.only else list(parts):
            load_before = os.getloadavg()[0]
            measured[name] = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {load_before:.1f} before"
            try:
                parts[name]()
            except (RuntimeError, OSError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                bench.add(Row(f"{name}-did-not-run", None, "", "==", 0.0, str(error)[:300]))
    # Read at the end: another run may have written other parts meanwhile.
    earlier, before = earlier_rows() if options.only else ([], {})
    measured = before | measured
    new = {row.id: row for row in bench.rows}
    rows = [new.pop(row.id, row) for row in earlier] + list(new.values())
    summary = (
        "The server on one core, the client on the other, both before whatever else the machine does.",
        "Pairs alternate in short turns, and the median of the turns' ratios counts.",
        f"Triton is nvidia-pytriton's with a Python-based onnxruntime backend: its figures are multiplied by "
        f"{HTTP_FACTOR} (HTTP) and {GRPC_FACTOR} (gRPC), the native backend's lead over it.",
    )
    environment = {
        "numpy": np.__version__,
        "turnSeconds": options.seconds,
        "turns": options.turns,
        "measured": "; ".join(f"{name}: {when}" for name, when in measured.items()),
    }
    path = Report("server", tuple(rows), environment, summary).write()
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
