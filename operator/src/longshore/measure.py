"""Sends sample requests to a pod of each runtime in turn and keeps how fast they were answered."""

import asyncio
import itertools
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import aiohttp

from longshore.api.serving import RuntimeName
from longshore.index import Key
from longshore.inference import ask
from longshore.plan.choice import Measured, Speed
from longshore.plan.preflight import Answered
from longshore.plan.state import AskedPod, Measurement
from longshore.resources.names import Owner
from longshore.runtimes.registry import samples_port
from longshore.samples import LARGEST, sources
from longshore.senses import Senses

SAMPLES = 16
ROUNDS = 5
SLICE = 0.5
"""Seconds of requests to one pod in a round, once one at a time and once several."""

IN_FLIGHT = 8
"""Requests at once where throughput is measured."""

WARM_UP = 5
TIMEOUT = 10.0
DEADLINE = 180.0
RETRY = 10.0
"""Seconds before a measurement that could not be done is tried again."""

_LOGGER = logging.getLogger(__name__)


@dataclass
class _Timed:
    """What one runtime has answered so far."""

    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    failure: str = ""


class Measurer:
    """Measures one model at a time, in the background; close it when done."""

    def __init__(self, senses: Senses, rounds: int = ROUNDS, slice_seconds: float = SLICE) -> None:
        self._senses = senses
        self._rounds, self._slice = rounds, slice_seconds
        self._running: dict[Key, tuple[Measurement, asyncio.Task[None]]] = {}
        self._tried: dict[Key, float] = {}
        # Two at once would measure each other.
        self._turn = asyncio.Lock()
        self.wake: Callable[[Key], None] = lambda key: None

    async def close(self) -> None:
        """End what is under way."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def measure(self, owner: Owner, wanted: Measurement | None) -> None:
        """See that a measurement is under way or done, or end it; never waits."""
        key = (owner.namespace, owner.name)
        running = self._running.get(key)
        if wanted is None:
            if running is not None:
                running[1].cancel()
            self._senses.measured.pop(key, None)
            self._tried.pop(key, None)
            return
        if running is not None and running[0] == wanted:
            return
        known = self._senses.measured.get(key)
        done = known is not None and known.revision == wanted.revision and not known.error
        if done or time.monotonic() - self._tried.get(key, -RETRY) < RETRY:
            return
        if running is not None:
            running[1].cancel()
        self._tried[key] = time.monotonic()
        self._running[key] = (wanted, asyncio.ensure_future(self._run(key, wanted)))

    async def _run(self, key: Key, wanted: Measurement) -> None:
        try:
            async with self._turn:
                self._senses.measured[key] = await measure(key[1], wanted, self._rounds, self._slice)
        except Exception as error:
            _LOGGER.exception("runtimes could not be measured", extra={"key": f"{key[0]}/{key[1]}"})
            self._senses.measured[key] = Measured(wanted.revision, error=f"{type(error).__name__}: {error}")
        finally:
            current = self._running.get(key)
            if current is not None and current[1] is asyncio.current_task():
                del self._running[key]
            self.wake(key)


async def measure(
    name: str, wanted: Measurement, rounds: int = ROUNDS, slice_seconds: float = SLICE
) -> Measured:
    """Send the same requests to a pod of each runtime, in turn so that a busy node slows them all.

    Args:
        name: the model's name in the protocol.
        wanted: whom to ask.
        rounds: turns of each runtime.
        slice_seconds: of one at a time, and of several, in a turn.
    """
    try:
        async with (
            asyncio.timeout(DEADLINE),
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT), trust_env=False) as session,
        ):
            samples, failures = await _samples(session, name, wanted)
            if not samples:
                told = "no sample request fits the model"
                return Measured(wanted.revision, failures=failures, nothing=f"not measured: {told}")
            timed = {runtime: _Timed() for runtime in wanted.addresses if runtime not in failures}
            for turn in range(rounds):
                order = list(timed) if turn % 2 == 0 else list(reversed(timed))
                for runtime in order:
                    address = wanted.addresses[runtime]
                    await _take_turn(
                        partial(ask, session, address, name, key=wanted.mirror_key),
                        samples,
                        timed[runtime],
                        slice_seconds,
                    )
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return Measured(wanted.revision, error=str(error) or type(error).__name__)
    failures |= {runtime: one.failure for runtime, one in timed.items() if one.failure}
    speeds = {runtime: _speed(one) for runtime, one in timed.items() if not one.failure}
    return Measured(wanted.revision, speeds, failures)


async def _samples(
    session: aiohttp.ClientSession, name: str, wanted: Measurement
) -> tuple[list[bytes], dict[RuntimeName, str]]:
    """Give the requests that a runtime answers, and which runtime fails on what another answers."""
    samples: list[bytes] = []
    failures: dict[RuntimeName, str] = {}
    pods = [AskedPod(address, samples_port(runtime)) for runtime, address in wanted.addresses.items()]
    async for _, requests in sources(session, name, pods[0].address, pods, wanted.mirror_key, SAMPLES):
        for request in requests:
            answers = {
                runtime: await ask(session, address, name, request, wanted.mirror_key)
                for runtime, address in wanted.addresses.items()
            }
            if all(answer.outputs is None for answer in answers.values()):
                continue
            samples.append(request)
            failures |= {
                runtime: f"it fails on a request that another answers: {answer.error}"
                for runtime, answer in answers.items()
                if answer.outputs is None
            }
            if len(samples) >= SAMPLES or sum(map(len, samples)) >= LARGEST:
                break
        if samples:
            break
    return samples, failures


async def _take_turn(
    asked: Callable[[bytes], Awaitable[Answered]],
    samples: Sequence[bytes],
    timed: _Timed,
    slice_seconds: float,
) -> None:
    requests = itertools.cycle(samples)

    async def send(until: float, times: list[float]) -> None:
        while time.perf_counter() < until or not times:
            answer = await asked(next(requests))
            if answer.outputs is None:
                timed.failure = timed.failure or answer.error
                return
            times.append(answer.seconds)

    # The first requests of a turn find caches that the other runtime has left.
    for _ in range(WARM_UP):
        await asked(next(requests))
    await send(time.perf_counter() + slice_seconds, timed.seconds)
    began = time.perf_counter()
    several: list[list[float]] = [[] for _ in range(IN_FLIGHT)]
    await asyncio.gather(*(send(began + slice_seconds, times) for times in several))
    timed.rates.append(sum(map(len, several)) / (time.perf_counter() - began))


def _speed(timed: _Timed) -> Speed:
    ordered = sorted(timed.seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return Speed(statistics.median(ordered), p95, statistics.median(timed.rates))
