"""Asks pods for their counters: many at once, each bounded in time and size."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from longshore.plan.telemetry import PodReading, Telemetry, parse_metrics, parse_predictions
from longshore.runtimes.base import MetricSource

TIMEOUT = 1.0
"""Seconds for one pod: a busy server must not hold up the round."""
CONCURRENCY = 256
_LARGEST = 4 * 2**20
"""Bytes of an answer; a server with more to say is not one of ours."""


@dataclass(frozen=True)
class ScrapeTarget:
    """A pod to ask."""

    pod: str
    uid: str
    revision: str
    address: str
    process: str
    source: MetricSource
    predictions: bool = False
    """Whether to ask for its predictions as well."""


class Scraper:
    """A pool of connections to pods; close it when done."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def read(self, targets: Sequence[ScrapeTarget]) -> Telemetry:
        """Ask all targets; one that does not answer is named with the reason."""
        answers = await asyncio.gather(*(self._ask(target) for target in targets))
        readings = tuple(answer for answer in answers if isinstance(answer, PodReading))
        unanswered: Mapping[str, str] = {
            target.pod: answer
            for target, answer in zip(targets, answers, strict=True)
            if isinstance(answer, str)
        }
        return Telemetry(self._clock(), readings, unanswered)

    async def _ask(self, target: ScrapeTarget) -> PodReading | str:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                trust_env=False,
            )
        try:
            async with self._slots:
                text = await self._text(target, target.source.path)
                at = self._clock()
                values = parse_metrics(text, target.source)
                predictions = await self._predictions(target) if target.predictions else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return str(error) or type(error).__name__
        return PodReading(target.pod, target.uid, target.revision, at, target.process, values, predictions)

    async def _predictions(self, target: ScrapeTarget) -> dict[str, dict[int, int]]:
        """Give what a pod predicted; nothing where it does not say: its counters count all the same."""
        if not target.source.predictions:
            return {}
        try:
            return parse_predictions(await self._text(target, target.source.predictions))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return {}

    async def _text(self, target: ScrapeTarget, path: str) -> str:
        """Ask a pod for one path.

        Raises:
            ValueError: another status than 200, or too long an answer.
            aiohttp.ClientError, TimeoutError, OSError: no answer.
        """
        assert self._session is not None  # the caller opened it
        host = f"[{target.address}]" if ":" in target.address else target.address
        url = f"http://{host}:{target.source.port}{path}"
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _LARGEST:
                    raise ValueError(f"the answer is larger than {_LARGEST} bytes")
        return body.decode("utf-8", "replace")
