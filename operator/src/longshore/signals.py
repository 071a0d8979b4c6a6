"""Asks Prometheus servers and web hooks about canaries, in the background: a slow one holds up nobody."""

import asyncio
import json
import logging
import time
from collections.abc import Callable

import aiohttp

from longshore.index import Key
from longshore.outbound import TooLargeError, open_session, read_limited, reason
from longshore.plan.analysis.questions import (
    Answers,
    HookQuestion,
    MetricQuestion,
    Questions,
)
from longshore.plan.analysis.signals import HookAnswer, Reading
from longshore.prometheus import TIMEOUT, ask
from longshore.senses import Senses

INTERVAL = 10.0
"""Seconds between two rounds about one canary: servers seldom scrape more often."""

CONCURRENCY = 64
_LARGEST_HOOK = 64 * 2**10

_LOGGER = logging.getLogger(__name__)


class Inquirer:
    """Keeps at most one round under way for each ModelDeployment; close it when done."""

    def __init__(
        self, senses: Senses, clock: Callable[[], float] = time.time, interval: float = INTERVAL
    ) -> None:
        self._senses = senses
        self._clock = clock
        self._interval = interval
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._running: dict[Key, tuple[str, asyncio.Task[None]]] = {}
        self._begun: dict[Key, float] = {}
        self.wake: Callable[[Key], None] = lambda key: None

    async def close(self) -> None:
        """End what is under way and close all connections."""
        for _, task in self._running.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def inquire(self, key: Key, questions: Questions | None) -> None:
        """See that the questions are asked every `interval` seconds while they are given; never waits."""
        running = self._running.get(key)
        if running is not None:
            if questions and questions.canary == running[0]:
                return
            running[1].cancel()
            del self._running[key]
        if not questions:
            self._begun.pop(key, None)
            self._senses.answers.pop(key, None)
            return
        known = self._senses.answers.get(key)
        about_another = known is not None and known.canary != questions.canary
        now = time.monotonic()
        if not about_another and now - self._begun.get(key, -self._interval) < self._interval:
            return
        self._begun[key] = now
        task = asyncio.ensure_future(self._round(key, questions))
        self._running[key] = (questions.canary, task)

    async def _round(self, key: Key, questions: Questions) -> None:
        try:
            self._senses.answers[key] = await self.ask(questions)
        except Exception:
            _LOGGER.exception("signals could not be asked", extra={"key": f"{key[0]}/{key[1]}"})
        finally:
            current = self._running.get(key)
            if current is not None and current[1] is asyncio.current_task():
                del self._running[key]
                self.wake(key)

    async def ask(self, questions: Questions) -> Answers:
        """Ask everything at once; whatever fails is an answer that says so."""
        if self._session is None:
            self._session = open_session(TIMEOUT)
        session = self._session
        metrics, hooks = await asyncio.gather(
            asyncio.gather(*(self._metric(session, question) for question in questions.metrics)),
            asyncio.gather(*(self._hook(session, question) for question in questions.hooks)),
        )
        return Answers(
            questions.canary,
            self._clock(),
            dict(zip((q.signal for q in questions.metrics), metrics, strict=True)),
            dict(zip((q.signal for q in questions.hooks), hooks, strict=True)),
        )

    async def _metric(
        self, session: aiohttp.ClientSession, question: MetricQuestion
    ) -> tuple[Reading, Reading | None]:
        canary = ask(session, self._slots, question.address, question.canary)
        if question.stable is None:
            return await canary, None
        return await asyncio.gather(canary, ask(session, self._slots, question.address, question.stable))

    async def _hook(self, session: aiohttp.ClientSession, question: HookQuestion) -> HookAnswer:
        try:
            async with (
                self._slots,
                session.post(
                    question.address,
                    data=json.dumps(question.body),
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,
                ) as response,
            ):
                body = await read_limited(response, _LARGEST_HOOK)
        except (aiohttp.ClientError, TimeoutError, OSError, TooLargeError, ValueError) as error:
            return HookAnswer(error=reason(error))
        return HookAnswer(response.status, body.decode("utf-8", "replace"))
