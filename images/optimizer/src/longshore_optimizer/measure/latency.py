"""Times models against each other: one fresh process each, interleaved in rounds, so that drift hits all
alike."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from longshore_optimizer.decide import Latency
from longshore_optimizer.measure import threads
from longshore_optimizer.measure.cpu import memory_bytes
from longshore_optimizer.measure.process import WorkerError, WorkerProcess
from longshore_optimizer.measure.protocol import Loaded, Timed
from longshore_optimizer.measure.workers import Workers

ROUNDS = 11
_BLOCK_LEAST = 0.03
_BLOCK_MOST = 1.5
_RUNS_A_BLOCK = 8
_SLOW_SECONDS = 0.3
_LEAST_ROUNDS = 6
_TRIED_SECONDS = 0.1
_TRIED_RUNS = 3
"""How long a number of threads is tried."""

_START_SECONDS = 1.0
"""Starting a process, loading a model into it, and finding how many threads it gets."""

_OVERHEAD_BYTES = 150 << 20


def block_seconds(run: float) -> float:
    """Length of one block of timed runs, from the seconds that one run takes."""
    return min(max(_RUNS_A_BLOCK * run, _BLOCK_LEAST), _BLOCK_MOST)


def seconds_for(run: float, models: int) -> float:
    """Seconds that `time_models` needs for models of which one run takes `run` seconds; warm-ups count."""
    return models * (_START_SECONDS + 2 * ROUNDS * block_seconds(run))


def groups(sizes: Mapping[str, int], original: str, available: int) -> list[list[str]]:
    """Split candidates into groups whose processes fit into memory together; each group holds the
    original."""

    def cost(name: str) -> int:
        return 3 * sizes[name] + _OVERHEAD_BYTES

    budget = max(int(available * 0.6) - cost(original), 0)
    result: list[list[str]] = []
    current: list[str] = []
    used = 0
    for name in sizes:
        if name == original:
            continue
        if current and used + cost(name) > budget:
            result.append([original, *current])
            current, used = [], 0
        current.append(name)
        used += cost(name)
    if current or not result:
        result.append([original, *current])
    return result


def time_models(
    models: Mapping[str, Path],
    original: str,
    data: Path,
    workers: Workers,
    *,
    batch: int = 1,
    seed: int = 0,
    deadline: Callable[[], float] = lambda: math.inf,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Latency | WorkerError]:
    """Measure latencies of all models; `deadline` tells the seconds that are left.

    A candidate's latencies are given relative to the original of its own group, so that groups compare.
    """
    sizes = {n: p.stat().st_size for n, p in models.items()}
    parts = groups(sizes, original, memory_bytes())
    result: dict[str, Latency | WorkerError] = {}
    total = ROUNDS * sum(len(p) for p in parts)
    done = 0
    for part in parts:
        left = deadline() / max(len(parts), 1)

        def step(count: int, before: int = done) -> None:
            progress(before + count, total)

        measured = _time_group({n: models[n] for n in part}, original, data, workers, batch, seed, left, step)
        done += ROUNDS * len(part)
        base, reference = measured[original], result.get(original)
        if isinstance(base, WorkerError):
            raise base
        if isinstance(reference, Latency):
            measured = {n: _rescaled(v, base, reference) for n, v in measured.items() if n != original}
        result |= measured
    return result


def _rescaled(value: Latency | WorkerError, base: Latency, reference: Latency) -> Latency | WorkerError:
    return value if isinstance(value, WorkerError) else rescale(value, base, reference)


def rescale(value: Latency, base: Latency, reference: Latency) -> Latency:
    """Give what was timed against `base` as if it had been timed against `reference`, the same model."""
    count = min(len(value.rounds), len(base.rounds), len(reference.rounds))
    rounds = tuple(reference.rounds[i] * value.rounds[i] / base.rounds[i] for i in range(count))
    cpu = tuple(reference.cpu_rounds[i] * value.cpu_rounds[i] / base.cpu_rounds[i] for i in range(count))
    factor = reference.p50 / base.p50
    return Latency(rounds, cpu, value.p50 * factor, value.p95 * factor, value.threads)


def _time_group(
    models: Mapping[str, Path],
    original: str,
    data: Path,
    workers: Workers,
    batch: int,
    seed: int,
    left: float,
    step: Callable[[int], None],
) -> dict[str, Latency | WorkerError]:
    failed: dict[str, Latency | WorkerError] = {}
    latencies: dict[str, list[float]] = {}
    rounds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    request = {"data": str(data), "batch": batch}
    with ExitStack() as stack:
        running: dict[str, WorkerProcess] = {}
        block: dict[str, float] = {}
        least: dict[str, int] = {}
        threads_of: dict[str, int] = {}
        rule = threads.rule()
        for name in sorted(models, key=lambda name: name != original):
            try:
                worker = stack.enter_context(workers.start())
                count, run = _loaded_as_served(worker, models[name], workers.cores.threads, request, rule)
            except WorkerError as error:
                failed[name] = error
                continue
            if name == original:
                rule = threads.rule(count)
            running[name], threads_of[name] = worker, count
            least[name] = 3 if run < _SLOW_SECONDS else 1
            block[name] = block_seconds(run)
            latencies[name], rounds[name], cpu[name] = [], [], []
        # A block's warm-up costs as much again; leave the deadline room for it.
        scale = min(1.0, left / max(2 * ROUNDS * sum(block.values()), 1e-9))
        count = 0
        order = random.Random(seed)  # noqa: S311 - a fair order, not a secret
        started = time.monotonic()
        for number in range(ROUNDS):
            if number >= _LEAST_ROUNDS and time.monotonic() - started > left:
                break
            # Another order every round: neither place nor neighbour may favour anyone.
            names = list(running)
            order.shuffle(names)
            for name in names:
                try:
                    timed = running[name].ask(
                        Timed,
                        300,
                        operation="time",
                        seconds=block[name] * scale,
                        least=least[name],
                        **request,
                    )
                except WorkerError as error:
                    failed[name] = error
                    del running[name]
                    continue
                latencies[name].extend(timed.latencies_ms)
                rounds[name].append(statistics.median(timed.latencies_ms))
                cpu[name].append(timed.cpu_ms)
                count += 1
                step(count)
    result = dict(failed)
    for name in running:
        values = np.array(latencies[name])
        result[name] = Latency(
            tuple(rounds[name]),
            tuple(cpu[name]),
            float(np.percentile(values, 50)),
            float(np.percentile(values, 95)),
            threads_of[name],
        )
    return result


def _loaded_as_served(
    worker: WorkerProcess, path: Path, available: int, request: Mapping[str, object], by: threads.Rule
) -> tuple[int, float]:
    """Load a model with the threads that the server would give it; gives them and the seconds of one run."""
    runs: dict[int, float] = {}
    loaded = 0

    def load(count: int) -> None:
        nonlocal loaded
        if count != loaded:
            worker.ask(Loaded, 300, operation="load", model=str(path), threads=count)
            loaded = count

    def run(count: int) -> float:
        load(count)
        first = worker.ask(Timed, 300, operation="time", seconds=_TRIED_SECONDS, least=_TRIED_RUNS, **request)
        runs[count] = statistics.median(first.latencies_ms) / 1000
        return min(first.latencies_ms) / 1000

    chosen = threads.served(available, path.stat().st_size, run, by)
    if chosen not in runs:
        run(chosen)
    load(chosen)
    return chosen, runs[chosen]
