"""A keyed work queue: one worker a key at a time, no key twice, backoff on failure, come-back times."""

import asyncio
import contextlib
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BACKOFF_FIRST = 0.2
BACKOFF_MOST = 60.0
"""Seconds before a failed key is tried again, doubling; with jitter, so that failures spread out."""


@dataclass(order=True)
class _Due(Generic[K]):
    at: float
    order: int
    key: K = field(compare=False)


class Queue(Generic[K]):
    """Keys to work on. `work(key)` gives seconds to come back, or None; an exception is a failure.

    Times are of a monotonic clock.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        workers: int = 16,
        failed: Callable[[K, Exception], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._workers = workers
        self._report = failed
        self._clock = clock
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._queued: dict[K, float] = {}
        self._running: dict[K, float] = {}
        self._again: set[K] = set()
        self._due: dict[K, _Due[K]] = {}
        self._heap: list[_Due[K]] = []
        self._order = itertools.count()
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()
        self._working = False

    def add(self, key: K) -> None:
        """Ask for work on a key now; asking twice before it is taken is asking once."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued[key] = self._clock()
            self._ready.put_nowait(key)

    def add_after(self, key: K, delay: float) -> None:
        """Ask for work on a key in `delay` seconds; of several such wishes the earliest stands."""
        at = self._clock() + max(0.0, delay)
        known = self._due.get(key)
        if known is not None and known.at <= at:
            return
        due = _Due(at, next(self._order), key)
        self._due[key] = due
        heapq.heappush(self._heap, due)
        self._wake.set()

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._queued)

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits and nothing runs; come-back times do not count."""
        return not self._queued and not self._running and not self._again

    def stuck_for(self) -> float:
        """Give the seconds that the oldest key has waited or run; 0 when there is none, or nobody works."""
        if not self._working:
            return 0.0
        oldest = min((*self._queued.values(), *self._running.values()), default=None)
        return 0.0 if oldest is None else self._clock() - oldest

    async def run(self) -> None:
        """Work until cancelled."""
        # What waited while another process led has only now begun to wait for this one.
        self._queued = dict.fromkeys(self._queued, self._clock())
        self._working = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._timer())
                for _ in range(self._workers):
                    group.create_task(self._worker())
        finally:
            self._working = False

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued.pop(key, None)
            self._running[key] = self._clock()
            self._due.pop(key, None)
            try:
                again = await self._work(key)
            except Exception as error:  # noqa: BLE001 (a key's failure, whatever it is, must not end the worker)
                self._retry(key, error)
            else:
                self._failures.pop(key, None)
                if again is not None:
                    self.add_after(key, again)
            finally:
                self._running.pop(key, None)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _retry(self, key: K, error: Exception) -> None:
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay = min(BACKOFF_FIRST * 2 ** min(count, 20), BACKOFF_MOST) * random.uniform(0.8, 1.2)  # noqa: S311
        if self._report is not None:
            self._report(key, error)
        else:
            logging.getLogger(__name__).error("work on %s failed: %s", key, error, exc_info=error)
        self.add_after(key, delay)

    async def _timer(self) -> None:
        while True:
            while self._heap and (
                self._due.get(self._heap[0].key) is not self._heap[0] or self._heap[0].at <= self._clock()
            ):
                due = heapq.heappop(self._heap)
                if self._due.get(due.key) is due:
                    del self._due[due.key]
                    self.add(due.key)
            wait = self._heap[0].at - self._clock() if self._heap else None
            self._wake.clear()
            # Not wait_for: before Python 3.12 it may swallow a cancellation (CPython issue 81839).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
