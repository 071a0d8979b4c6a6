"""Asks pods for their counters: many at once, each bounded in time and size."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from longshore.outbound import read_limited
from longshore.plan.mirror import Mirroring
from longshore.plan.telemetry import PodReading, Telemetry, parse_metrics, parse_predictions
from longshore.runtimes.base import MetricSource

TIMEOUT = 1.0
"""Seconds for one pod: a busy server must not hold up the round."""
CONCURRENCY = 256
MIRROR_PATH = "/mirror"
MIRROR_KEY_HEADER = "Longshore-Mirror-Key"
_OLDER = (
    "its server was started by an older version and sends no copies: promote this revision, or take strategy "
    "Canary; later rollouts can be mirrored"
)
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
    mirroring: Mirroring | None = None
    """Copies of requests that it is asked to send."""


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
                unmirrored, copies = await self._mirror(target)
                text = await self._text(target, target.source.path)
                at = self._clock()
                values = {**copies, **parse_metrics(text, target.source)}
                predictions = await self._predictions(target) if target.predictions else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return str(error) or type(error).__name__
        return PodReading(
            target.pod, target.uid, target.revision, at, target.process, values, predictions, unmirrored
        )

    async def _mirror(self, target: ScrapeTarget) -> tuple[str, Mapping[str, float]]:
        """Ask a pod to send copies of requests; gives why it does not, and what it counts of them there.

        Its other counters count all the same.
        """
        wanted, source = target.mirroring, target.source
        if wanted is None or "mirroring" not in source.series:
            return "", {}
        assert self._session is not None  # the caller opened it
        document = {
            "share": wanted.share,
            "seconds": wanted.seconds,
            "tolerance": wanted.tolerance,
            "revision": wanted.canary,
        }
        try:
            async with self._session.post(
                _url(target, MIRROR_PATH, source.side_port),
                json=document,
                headers={MIRROR_KEY_HEADER: wanted.key},
                allow_redirects=False,
            ) as response:
                if response.status == 404:
                    return _OLDER, {}
                if response.status != 200:
                    return f"HTTP {response.status}", {}
                told = await read_limited(response, _LARGEST) if source.side_port else b""
                return "", parse_metrics(told.decode("utf-8", "replace"), source)
        except aiohttp.ClientConnectorError as error:
            return (_OLDER if source.side_port else str(error)), {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return str(error) or type(error).__name__, {}

    async def _predictions(self, target: ScrapeTarget) -> dict[str, dict[int, int]]:
        """Give what a pod predicted; nothing where it does not say: its counters count all the same."""
        source = target.source
        if not source.predictions:
            return {}
        try:
            return parse_predictions(await self._text(target, source.predictions, source.side_port))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return {}

    async def _text(self, target: ScrapeTarget, path: str, port: int = 0) -> str:
        """Ask a pod for one path.

        Raises:
            ValueError: another status than 200, or too long an answer.
            aiohttp.ClientError, TimeoutError, OSError: no answer.
        """
        assert self._session is not None  # the caller opened it
        async with self._session.get(_url(target, path, port), allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            body = await read_limited(response, _LARGEST)
        return body.decode("utf-8", "replace")


def _url(target: ScrapeTarget, path: str, port: int = 0) -> str:
    host = f"[{target.address}]" if ":" in target.address else target.address
    return f"http://{host}:{port or target.source.port}{path}"
