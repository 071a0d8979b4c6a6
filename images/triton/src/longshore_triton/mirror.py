"""Sends copies of answered requests to another revision, while the operator asks for it, and compares.

With the lease the copying ends by itself.
"""

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longshore_triton.traced import Traced

MOST_SECONDS = 60.0
"""Longest lease; the operator's is shorter."""

_MOST_TOLERANCE = 1e6


class RefusedError(Exception):
    """A lease that cannot be given, with the reason."""


@dataclass(frozen=True)
class Lease:
    """What is asked for: copies of a `share` of the requests, until the moment `end` (`time.monotonic`)."""

    share: float = 0.0
    tolerance: float = 0.0
    end: float = 0.0

    @property
    def holds(self) -> bool:
        """Tell whether copies are wanted now."""
        return self.share > 0 and time.monotonic() < self.end


@dataclass
class Counters:
    """What became of copies, since the start."""

    compared: int = 0
    differing: int = 0
    failed: int = 0
    dropped: int = 0


def parse(body: bytes) -> Lease:
    """Read `{"share": 1, "seconds": 15, "tolerance": 0.01, "revision": "..."}`.

    Raises:
        RefusedError: it is something else.
    """
    try:
        document = json.loads(body)
        share, seconds = _number(document, "share", 1.0), _number(document, "seconds", MOST_SECONDS)
        return Lease(share, _number(document, "tolerance", _MOST_TOLERANCE), time.monotonic() + seconds)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"the body is no lease: {error}") from None


def _number(document: dict[str, object], name: str, most: float) -> float:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name!r} must be a number")
    if not 0 <= value <= most:
        raise ValueError(f"{name!r} must be between 0 and {most:g}")
    return float(value)


@dataclass(frozen=True)
class Target:
    """Who answers copies: a host, its HTTP port, the model's name, and the key that its pods know."""

    host: str
    port: int
    model: str
    key: str
    seconds: float = 5.0
    """The most that a connection may take, and an answer once it has begun."""


class Mirror:
    """The mirror of one server; reads what is traced while there is a lease."""

    eager = True

    def __init__(self, target: Target, tell: Callable[[str], None], wake: Callable[[], None]) -> None:
        """Nothing is sent while nobody asks for it.

        Args:
            target: who answers copies.
            tell: logs what fails, now and then.
            wake: lets `wants` be asked soon.
        """
        self._target = target
        self._tell = tell
        self._wake = wake
        self.batched = False
        """Whether the first dimension counts rows that are independent of each other."""
        self.outputs: frozenset[str] = frozenset()
        """Names of all outputs that the model has."""
        self._lease = Lease()
        self._counters = Counters()

    def grant(self, body: bytes) -> str:
        """Begin, go on with, or end copying; gives the counters as Prometheus text.

        Raises:
            RefusedError: no lease can be read.
        """
        self._lease = parse(body)
        self._wake()
        return self.metrics()

    def metrics(self) -> str:
        """Give the counters in Prometheus's text format."""
        counters = self._counters
        values = {
            "longshore_mirror_share": self.wants(),
            "longshore_mirror_compared_total": counters.compared,
            "longshore_mirror_differing_total": counters.differing,
            "longshore_mirror_failed_total": counters.failed,
            "longshore_mirror_dropped_total": counters.dropped,
        }
        return "".join(f"{name} {value}\n" for name, value in values.items())

    def wants(self) -> float:
        """Give the share of the requests that is copied now."""
        lease = self._lease
        return lease.share if lease.holds else 0.0

    def take(self, request: "Traced", share: float) -> None:
        """Send a copy and compare; others may have had more traced than are to be copied."""
        from longshore_triton import copies, traced

        lease = self._lease
        if random.random() >= lease.share / share:  # noqa: S311 (a sample, no secret)
            return
        # Who asked for some of the outputs was answered no others.
        named = () if request.outputs.keys() >= self.outputs else request.outputs.keys()
        try:
            answer = copies.ask(self._target, request.inputs, named)
        except copies.BadAnswerError as error:
            self._counters.failed += 1
            self._tell(f"a copy was not answered by {self._target.host}:{self._target.port}: {error}")
            return
        if not copies.same(request.outputs, answer, self.batched, max(lease.tolerance, traced.ROUNDED)):
            self._counters.differing += 1
        self._counters.compared += 1

    def drop(self) -> None:
        """Count a request that could not be read."""
        self._counters.dropped += 1
