"""What is pushed to the operator: snapshots, coalesced by model, so a slow reader costs no memory."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable

Snapshot = Callable[[str], dict[str, object] | None]

HEARTBEAT_SECONDS = 5.0
"""A reader that has seen nothing for three of these should connect again."""

SETTLE_SECONDS = 0.2
"""Numbers that only moved are told at most this often; the first demand of a model is told at once."""


def encode(event: dict[str, object]) -> bytes:
    """Give one event as a line of JSON, stamped with the wall clock in Unix seconds."""
    return json.dumps({**event, "at": round(time.time(), 3)}, separators=(",", ":")).encode() + b"\n"


class Subscription:
    """One open stream."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._urgent: dict[str, None] = {}
        self._changed: dict[str, None] = {}
        self._bell = asyncio.Event()

    def demand(self, key: str) -> None:
        """Tell at once that a model at zero is wanted."""
        self._changed.pop(key, None)
        self._urgent[key] = None
        self._bell.set()

    def change(self, key: str) -> None:
        """Tell soon that the numbers of a model moved."""
        if key not in self._urgent:
            self._changed[key] = None

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield events until the reader goes away."""
        loop = asyncio.get_running_loop()
        last_sent = last_settled = loop.time()
        while True:
            due = last_settled + SETTLE_SECONDS if self._changed else last_settled + 1.0
            try:
                async with asyncio.timeout_at(max(due, loop.time() + 0.001)):
                    await self._bell.wait()
            except TimeoutError:
                pass
            self._bell.clear()
            batch = [("wake", key) for key in self._urgent]
            self._urgent.clear()
            now = loop.time()
            if now - last_settled >= SETTLE_SECONDS:
                batch += [("load", key) for key in self._changed]
                self._changed.clear()
                last_settled = now
            out = b"".join(
                encode({"type": kind, **snapshot})
                for kind, key in batch
                if (snapshot := self._snapshot(key)) is not None
            )
            if not out and now - last_sent >= HEARTBEAT_SECONDS:
                out = encode({"type": "ping"})
            if out:
                last_sent = now
                yield out


class Hub:
    """All open streams."""

    MAX_SUBSCRIPTIONS = 16

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._subscriptions: set[Subscription] = set()

    @property
    def full(self) -> bool:
        """Whether no further reader is taken."""
        return len(self._subscriptions) >= self.MAX_SUBSCRIPTIONS

    def __len__(self) -> int:
        """Count the open streams."""
        return len(self._subscriptions)

    def subscribe(self) -> Subscription:
        """Open a stream; `unsubscribe` ends it."""
        subscription = Subscription(self._snapshot)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a stream."""
        self._subscriptions.discard(subscription)

    def demand(self, key: str) -> None:
        """Tell every reader at once."""
        for subscription in self._subscriptions:
            subscription.demand(key)

    def change(self, key: str) -> None:
        """Tell every reader soon."""
        for subscription in self._subscriptions:
            subscription.change(key)
