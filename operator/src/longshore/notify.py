"""Tells web hooks of transitions, in the background: at least once, in order, and never in anybody's way."""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from longshore.index import Key
from longshore.outbound import open_session, reason
from longshore.resources.names import Owner
from longshore.senses import Senses

TIMEOUT = 10.0
CONCURRENCY = 32
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
"""Seconds between tries of a web hook that does not take an entry: doubling, with jitter."""

_LOGGER = logging.getLogger(__name__)
_Line = tuple[Key, str]


class Notifier:
    """One line of entries for each ModelDeployment and web hook; what waits stands in status, not here."""

    def __init__(
        self, senses: Senses, told: Callable[[str], None] = lambda result: None, pause: float = FIRST_PAUSE
    ) -> None:
        """`told` counts tries by their result, `delivered` or `failed`; `pause` as FIRST_PAUSE."""
        self._senses = senses
        self._told = told
        self._pause = pause
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._waiting: dict[Key, tuple[Owner, tuple[Mapping[str, Any], ...], tuple[str, ...]]] = {}
        self._took: dict[_Line, set[str]] = {}
        self._lines: dict[_Line, asyncio.Task[None]] = {}
        self.wake: Callable[[Key], None] = lambda key: None

    async def close(self) -> None:
        """End all tries and close all connections."""
        tasks = list(self._lines.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def notify(self, owner: Owner, pending: Sequence[Mapping[str, Any]], urls: Sequence[str]) -> None:
        """See that every web hook is told all that waits, the oldest first; returns at once.

        An entry that all of them took is named in `Senses.delivered`, and the ModelDeployment is woken.
        """
        key = (owner.namespace, owner.name)
        entries = {entry["id"] for entry in pending}
        for line in [line for line in self._took if line[0] == key]:
            self._took[line] &= entries
            if line[1] not in urls or not entries:
                del self._took[line]
        delivered = self._senses.delivered.get(key, frozenset()) & entries
        _keep(self._senses.delivered, key, delivered)
        if not pending or not urls:
            self._waiting.pop(key, None)
            return
        self._waiting[key] = (owner, tuple(pending), tuple(urls))
        for url in urls:
            line = (key, url)
            if line not in self._lines and self._next(line) is not None:
                self._lines[line] = asyncio.ensure_future(self._run(line))

    def _next(self, line: _Line) -> Mapping[str, Any] | None:
        """Find the oldest entry that a web hook did not take yet."""
        key, url = line
        _, pending, urls = self._waiting.get(key, (None, (), ()))
        took = self._took.get(line, set())
        return next((e for e in pending if e["id"] not in took), None) if url in urls else None

    async def _run(self, line: _Line) -> None:
        key, url = line
        failures = 0
        try:
            while (entry := self._next(line)) is not None:
                problem = await self._send(self._waiting[key][0], url, entry)
                if problem is None:
                    failures = 0
                    self._told("delivered")
                    self._delivered(line, entry["id"])
                    continue
                self._told("failed")
                failures += 1
                pause = min(LONGEST_PAUSE, self._pause * 2 ** min(failures - 1, 16))
                _LOGGER.warning(
                    "a web hook did not take %s and is tried again in about %.0f s: %s",
                    *(entry["reason"], pause, problem),
                    extra={"key": f"{key[0]}/{key[1]}"},
                )
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 (jitter, no secret)
        finally:
            self._lines.pop(line, None)

    def _delivered(self, line: _Line, identity: str) -> None:
        key, _ = line
        self._took.setdefault(line, set()).add(identity)
        _, _, urls = self._waiting.get(key, (None, (), ()))
        if urls and all(identity in self._took.get((key, url), ()) for url in urls):
            self._senses.delivered[key] = self._senses.delivered.get(key, frozenset()) | {identity}
            self.wake(key)

    async def _send(self, owner: Owner, url: str, entry: Mapping[str, Any]) -> str | None:
        """POST one entry; gives why it was not taken."""
        if self._session is None:
            self._session = open_session(TIMEOUT)
        body = {
            **entry,
            "namespace": owner.namespace,
            "name": owner.name,
            "uid": owner.uid,
            # What chat services show of an incoming web hook.
            "text": f"{owner.namespace}/{owner.name}: {entry['reason']}: {entry['message']}",
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": entry["id"]}
        try:
            async with (
                self._slots,
                self._session.post(
                    url, data=json.dumps(body), headers=headers, allow_redirects=False
                ) as response,
            ):
                return None if 200 <= response.status < 300 else f"HTTP {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return reason(error)


def _keep(known: dict[Key, frozenset[str]], key: Key, value: frozenset[str]) -> None:
    if value:
        known[key] = value
    else:
        known.pop(key, None)
