"""Times models within this process: rougher than fresh ones, for searches that judge hundreds of models."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longshore_optimizer.measure import threads
from longshore_optimizer.measure.session import open_session

_LEAST_RUNS = 9
_MOST_RUNS = 200

Feeds = Sequence[dict[str, Any]]


def open_as_served(path: Path, available: int, feeds: Feeds, by: threads.Rule) -> Any:
    """Open a model with the threads, of those available, that the server would give it, and warm it up."""
    sessions: dict[int, Any] = {}

    def opened(count: int) -> Any:
        session = sessions[count] = open_session(path, count)
        for values in feeds:
            session.run(None, values)
        return session

    def run(count: int) -> float:
        return min(latencies(sessions.get(count) or opened(count), feeds)) / 1000

    chosen = threads.served(available, path.stat().st_size, run, by)
    return sessions.get(chosen) or opened(chosen)


def threads_of(session: Any) -> int:
    """Give the threads that a session was opened with."""
    return int(session.get_session_options().intra_op_num_threads)


def latencies(session: Any, feeds: Feeds, seconds: float = 0.05) -> list[float]:
    """Give the ms of 9 to 200 runs, for so many seconds where they are that short."""
    found: list[float] = []
    started = time.perf_counter()
    while len(found) < _MOST_RUNS and (len(found) < _LEAST_RUNS or time.perf_counter() - started < seconds):
        begun = time.perf_counter()
        session.run(None, feeds[len(found) % len(feeds)])
        found.append((time.perf_counter() - begun) * 1000)
    return found
