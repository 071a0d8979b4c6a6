"""How many processes, and how many threads in each: chosen from a short measurement under the container's
limits.
"""

import json
import os
from dataclasses import dataclass

from longshore_server.artifact import Artifact
from longshore_server.config import Settings
from longshore_server.errors import RequestError, StartupError

# A model whose single run is shorter than this is "small": its requests are spread over processes.
SMALL_RUN_SECONDS = 0.005
# A thread pool must make a run this much faster to be worth having instead of a second process.
_MIN_SPEEDUP = 1.3
# Processes each hold the model: together they may take this share of the memory limit.
_MEMORY_SHARE = 0.3
_LARGE_FILE = 512 << 20
_BUDGET = 0.3


@dataclass(frozen=True, slots=True)
class Sizing:
    """`workers` processes with `threads` inside each operator."""

    workers: int
    threads: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of one run with one thread and with one thread for each processor."""

    one_thread: float
    all_threads: float


def choose(
    processors: float,
    model_bytes: int,
    memory_limit: int | None,
    measured: Measured | None,
    wanted: Sizing,
    timed_threads: int = 0,
) -> Sizing:
    """The sizing for a limit of `processors`; what `wanted` gives (not 0) is taken as it is.

    A model whose original the optimizer timed with `timed_threads` keeps them where there are as many
    processors, unless one thread is faster: spread over processes like a small one, it would answer later
    than was measured.

    Part of a processor does not carry a thread: 1.5 processors make one, so that no thread is throttled in
    the middle of an operator that others wait for.
    """
    whole = max(1, int(processors))
    if wanted.workers and wanted.threads:
        return wanted
    if wanted.workers:
        return Sizing(wanted.workers, max(1, whole // wanted.workers))
    if wanted.threads:
        return Sizing(max(1, whole // wanted.threads), wanted.threads)
    if whole == 1:
        return Sizing(1, 1)
    fits = memory_limit is None or whole * model_bytes * 2 < memory_limit * _MEMORY_SHARE
    if measured is None or not fits:
        return Sizing(1, whole)
    keeps = timed_threads == whole
    if measured.one_thread < SMALL_RUN_SECONDS and not keeps:
        return Sizing(whole, 1)
    if measured.all_threads * (1 if keeps else _MIN_SPEEDUP) > measured.one_thread:
        return Sizing(whole, 1)
    return Sizing(1, whole)


def needs_measurement(processors: float, model_bytes: int, settings: Settings) -> bool:
    """Whether a measurement can change the choice."""
    return int(processors) > 1 and not settings.workers and not settings.threads and model_bytes < _LARGE_FILE


def model_bytes(artifact: Artifact) -> int:
    """Bytes of everything beside the models, which is about what they take in memory."""
    homes = {file.parent for file in artifact.files}
    return sum(entry.stat().st_size for home in homes for entry in home.iterdir() if entry.is_file())


def measure_in_child(artifact: Artifact, providers: tuple[str, ...], threads: int) -> Measured | None:
    """Time one run of the model in a process of its own, so that this one stays free to fork. None if it
    fails.

    A model that cannot be loaded fails here in silence: the worker that loads it next says why.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        status = 1
        try:
            found = _measure(artifact, providers, threads)
            os.write(write_end, json.dumps(found).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    try:
        one, many = json.loads(text)
    except (ValueError, TypeError):
        return None
    return Measured(one, many)


def _measure(artifact: Artifact, providers: tuple[str, ...], threads: int) -> tuple[float, float] | None:
    # The runtime is imported in the child alone: its threads would not survive a fork.
    from longshore_server.guarded import open_session
    from longshore_server.session import SessionOptions
    from longshore_server.warmup import Sample, find_sample, measure

    found = []
    for count in (1, threads):
        try:
            session = open_session(artifact.files[-1], SessionOptions(providers, count))
            sample = find_sample(session.signature, session.run, 10 * _BUDGET)
            if not isinstance(sample, Sample):
                return None
            found.append(measure(session.signature, session.run, sample, False, 1, _BUDGET).predict(1))
        except (StartupError, RequestError):
            return None
    return found[0], found[1]
