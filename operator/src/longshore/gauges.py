"""Asks Prometheus servers what scaling goes by, in the background: a slow one holds up no tick."""

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp

from longshore.index import Key
from longshore.outbound import open_session
from longshore.plan.scaling import External
from longshore.plan.scaling.queries import MetricQuery
from longshore.prometheus import TIMEOUT, ask
from longshore.senses import Senses

INTERVAL = 5.0
"""Seconds between two rounds for one model: servers scrape every 15 s or so."""

CONCURRENCY = 64

_LOGGER = logging.getLogger(__name__)


class Gauges:
    """Keeps at most one round under way for each ModelDeployment; close it when done."""

    def __init__(
        self, senses: Senses, clock: Callable[[], float] = time.time, interval: float = INTERVAL
    ) -> None:
        self._senses = senses
        self._clock = clock
        self._interval = interval
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._begun: dict[Key, tuple[float, tuple[MetricQuery, ...]]] = {}

    async def close(self) -> None:
        """End what is under way and close all connections."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def follow(self, key: Key, queries: tuple[MetricQuery, ...]) -> None:
        """See that the queries are asked every `interval` seconds while they are given; never waits.

        Called at every look at the model; without queries everything about it is forgotten.
        """
        begun, asked = self._begun.get(key, (0.0, ()))
        if asked != queries:
            if task := self._running.pop(key, None):
                task.cancel()
            self._senses.external.pop(key, None)
            self._begun.pop(key, None)
            begun = 0.0
        if not queries or key in self._running:
            return
        now = time.monotonic()
        if begun and now - begun < self._interval:
            return
        self._begun[key] = (now, queries)
        self._running[key] = asyncio.ensure_future(self._round(key, queries))

    async def _round(self, key: Key, queries: tuple[MetricQuery, ...]) -> None:
        try:
            if self._session is None:
                self._session = open_session(TIMEOUT)
            session = self._session
            found = await asyncio.gather(*(ask(session, self._slots, q.address, q.query) for q in queries))
            at = self._clock()
            self._senses.external[key] = {
                query.index: External(reading.value, at, _wrong(reading.value, reading.error))
                for query, reading in zip(queries, found, strict=True)
            }
        except Exception:
            _LOGGER.exception("metrics could not be asked", extra={"key": f"{key[0]}/{key[1]}"})
        finally:
            if self._running.get(key) is asyncio.current_task():
                del self._running[key]


def _wrong(value: float | None, error: str | None) -> str:
    if error:
        return error[:300]
    return "" if value is not None else "the query gives no series, or no number"
