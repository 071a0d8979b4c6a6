"""What a worker process does: one JSON request a line, one answer a line."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from longshore.artifact.base import Wire

from longshore_optimizer import made_up
from longshore_optimizer.data import Batch, Dataset, TensorSpec, batches, read
from longshore_optimizer.measure.outputs import collect, save
from longshore_optimizer.measure.protocol import Failure, Io, Loaded, MadeUp, Predicted, Request, Timed

_WARM_UP_SECONDS = 0.2
_REWARM_SECONDS = 0.01


class Worker:
    """Holds at most one session and answers requests about it."""

    def __init__(self) -> None:
        """Start without a model."""
        self._session: Any = None
        self._inputs: tuple[TensorSpec, ...] = ()
        self._datasets: dict[Path, Dataset] = {}
        self._warm = False

    def load(self, request: Request) -> Loaded:
        """Open a model."""
        from longshore_optimizer.measure.session import open_session, tensor_specs

        started = time.perf_counter()
        session = open_session(Path(request["model"]), int(request["threads"]))
        elapsed = (time.perf_counter() - started) * 1000
        self._inputs = tensor_specs(session.get_inputs())
        outputs = tensor_specs(session.get_outputs())
        self._session = session
        self._warm = False
        return Loaded(
            inputs=tuple(Io(name=i.name, dtype=i.dtype, symbols=i.symbols) for i in self._inputs),
            outputs=tuple(Io(name=o.name, dtype=o.dtype, symbols=o.symbols) for o in outputs),
            load_ms=elapsed,
            rss_bytes=_resident_bytes(),
        )

    def predict(self, request: Request) -> Predicted:
        """Run every sample (at most `limit`) and write the outputs to `out`."""
        dataset = self._dataset(request)
        if request.get("limit"):
            dataset = dataset.head(int(request["limit"]))
        names = [o.name for o in self._session.get_outputs()]
        size = int(request.get("batch", 1))
        started = time.perf_counter()
        try:
            runs = self._run(dataset, size)
        except Exception:
            # Many exported models name their batch axis but hold a constant 1 further down.
            if size == 1:
                raise
            runs = self._run(dataset, 1)
        elapsed = (time.perf_counter() - started) * 1000
        outputs = collect(names, runs)
        save(Path(request["out"]), outputs)
        nan = tuple(name for name, rows in outputs.items() if any(_has_nan(row) for row in rows))
        return Predicted(samples=dataset.count, nan_outputs=nan, run_ms=elapsed)

    def _run(self, dataset: Dataset, size: int) -> list[tuple[Batch, list[Any]]]:
        return [
            (replace(batch, feeds={}), self._session.run(None, batch.feeds))
            for batch in batches(dataset, self._inputs, size)
        ]

    def time(self, request: Request) -> Timed:
        """Time single runs for about `seconds`, at least `least` of them, after a short warm-up."""
        dataset = self._dataset(request).head(int(request.get("limit", 16)))
        feeds = [b.feeds for b in batches(dataset, self._inputs, int(request.get("batch", 1)))]
        run = self._session.run
        warm_up = _REWARM_SECONDS if self._warm else _WARM_UP_SECONDS
        self._warm = True
        deadline = time.perf_counter() + min(warm_up, float(request["seconds"]))
        if warm_up > _REWARM_SECONDS:
            run(None, feeds[0])
        while time.perf_counter() < deadline:
            run(None, feeds[0])
        latencies: list[float] = []
        clock = time.perf_counter_ns
        cpu_started = time.process_time_ns()
        deadline_ns = clock() + int(float(request["seconds"]) * 1e9)
        least = int(request.get("least", 3))
        while len(latencies) < least or clock() < deadline_ns:
            feed = feeds[len(latencies) % len(feeds)]
            started = clock()
            run(None, feed)
            latencies.append((clock() - started) / 1e6)
            if len(latencies) >= 100_000:
                break
        cpu_ms = (time.process_time_ns() - cpu_started) / 1e6 / len(latencies)
        return Timed(latencies_ms=tuple(latencies), cpu_ms=cpu_ms)

    def make_up(self, request: Request) -> MadeUp:
        """Write samples with which the model runs to `out`, where any can be found within `seconds`."""
        deadline = time.monotonic() + float(request["seconds"])
        found = made_up.find(
            self._inputs,
            lambda feeds: self._session.run(None, feeds),
            int(request["seed"]),
            lambda: deadline - time.monotonic(),
        )
        if found is not None:
            made_up.save(found, Path(request["out"]))
        return MadeUp(found=found is not None)

    def build(self, request: Request) -> Wire:
        """Apply a technique; the new model lies in `out`."""
        from longshore_optimizer.techniques.build import build

        return build(request)

    def _dataset(self, request: Request) -> Dataset:
        path = Path(request["data"])
        if path not in self._datasets:
            self._datasets[path] = read(path, "evaluation", self._inputs)
        return self._datasets[path]


def _has_nan(values: Any) -> bool:
    array = np.asarray(values)
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the input ends."""
    worker = Worker()
    operations: dict[str, Callable[[Request], Wire]] = {
        "load": worker.load,
        "predict": worker.predict,
        "make_up": worker.make_up,
        "time": worker.time,
        "build": worker.build,
    }
    for line in requests:
        request = json.loads(line)
        answer: Wire
        try:
            answer = operations[request["operation"]](request)
        except MemoryError:
            answer = Failure(error="out of memory", kind="MemoryError")
        except Exception as error:  # noqa: BLE001 - whatever a hostile model raises is an answer, not a crash
            traceback.print_exc(file=sys.stderr)
            answer = Failure(error=str(error) or type(error).__name__, kind=type(error).__name__)
        answers.write(answer.model_dump_json(by_alias=True) + "\n")
        answers.flush()


def main() -> None:
    """Keep a private copy of standard output: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    cores = os.environ.get("LONGSHORE_WORKER_CORES")
    if cores:
        with suppress(OSError):
            os.sched_setaffinity(0, {int(c) for c in cores.split(",")})
    # Where memory runs out, this process is the one to go, so that the parent can tell the story.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("900")
    serve(sys.stdin, answers)
