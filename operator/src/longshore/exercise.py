"""Sends sample requests to both revisions where traffic is too thin to judge a canary by."""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from longshore.index import Key
from longshore.inference import ask
from longshore.plan.state import Exercise
from longshore.samples import LARGEST, sources
from longshore.senses import Senses

LINGER = 60.0
"""Seconds for which requests go on after traffic was last too thin: they are part of that traffic."""

SAMPLES = 16
TIMEOUT = 10.0
RETRY = 10.0
"""Seconds before samples are made again where none could be."""

_MOST_IN_FLIGHT = 64
"""Pairs of requests to one model at once: a slow model gets no more than it answers."""

_LOGGER = logging.getLogger(__name__)


@dataclass
class _Run:
    wanted: Exercise
    until: float
    task: "asyncio.Task[None] | None" = None


class Exerciser:
    """At most one stream of requests for each ModelDeployment; close it when done."""

    def __init__(self, senses: Senses, linger: float = LINGER) -> None:
        self._senses = senses
        self._linger = linger
        self._runs: dict[Key, _Run] = {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all requests and close all connections."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def exercise(self, key: Key, wanted: Exercise | None) -> None:
        """Begin, go on with, or end sending; never waits."""
        run = self._runs.get(key)
        if wanted is None:
            if run is not None and run.task is not None:
                run.task.cancel()
            return
        until = time.monotonic() + self._linger
        if run is not None:
            run.wanted, run.until = wanted, until if wanted.thin else run.until
        elif wanted.thin:
            run = self._runs[key] = _Run(wanted, until)
            run.task = asyncio.ensure_future(self._run(key, run))
            self._senses.exercising.add(key)

    async def _run(self, key: Key, run: _Run) -> None:
        try:
            await self._stream(key, run)
        except Exception:
            _LOGGER.exception("sample requests could not be sent", extra={"key": f"{key[0]}/{key[1]}"})
        finally:
            self._runs.pop(key, None)
            self._senses.exercising.discard(key)

    async def _stream(self, key: Key, run: _Run) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                connector=aiohttp.TCPConnector(limit=0),
                trust_env=False,
            )
        samples: Sequence[bytes] = ()
        while not samples and time.monotonic() < run.until:
            samples = await _samples(self._session, key[1], run.wanted)
            if not samples:
                await asyncio.sleep(RETRY)
        in_flight: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        try:
            for number, sample in enumerate(itertools.cycle(samples)):
                now = time.monotonic()
                if now >= run.until:
                    return
                if len(in_flight) < _MOST_IN_FLIGHT:
                    for pods in (run.wanted.canary, run.wanted.stable):
                        if pods:
                            address = pods[number % len(pods)].address
                            task = asyncio.ensure_future(
                                _send(self._session, address, key[1], sample, run.wanted.mirror_key)
                            )
                            in_flight.add(task)
                            task.add_done_callback(in_flight.discard)
                # What could not be sent in time is left out, not made up for in a burst.
                due = max(due + 1 / run.wanted.rate, now)
                await asyncio.sleep(due - now)
        finally:
            for task in in_flight:
                task.cancel()


async def _send(
    session: aiohttp.ClientSession, address: str, name: str, sample: bytes, mirror_key: str
) -> None:
    """Ask once; the pod itself counts what became of it."""
    await ask(session, address, name, sample, mirror_key)


async def _samples(session: aiohttp.ClientSession, name: str, wanted: Exercise) -> list[bytes]:
    """Give the requests that the stable revision answers: others would say nothing about the canary."""
    if not wanted.stable:
        return []
    stable = wanted.stable[0]
    recorders = (*wanted.canary[:1], stable)
    found: list[bytes] = []
    size = 0
    try:
        async for _, requests in sources(
            session, name, stable.address, recorders, wanted.mirror_key, SAMPLES
        ):
            for request in requests:
                answer = await ask(session, stable.address, name, request, wanted.mirror_key)
                if answer.outputs is None:
                    continue
                found.append(request)
                size += len(request)
                if len(found) >= SAMPLES or size >= LARGEST:
                    break
            if found:
                break
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        _LOGGER.info("a pod does not describe its model: %s", error)
    return found
