"""One record of each answered request for whoever wants one, such as the access log.

Which trace a request belongs to is in the W3C headers `traceparent` and `tracestate`
(https://www.w3.org/TR/trace-context/).
"""

import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_access = logging.getLogger("longshore_server.access")
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered request; `started` on the clock of `time.perf_counter`, `status` HTTP's or gRPC's."""

    protocol: str
    method: str
    path: str
    status: int
    failed: bool
    started: float
    peer: str
    traceparent: str
    tracestate: str

    @property
    def seconds(self) -> float:
        """How long it took until now."""
        return time.perf_counter() - self.started


Observer = Callable[[Answered], None]


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span: ids as numbers."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(value: str) -> Parent | None:
    """The parent that a `traceparent` header names; None when it is absent or invalid."""
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None or (match[4] and value.startswith("00")):
        return None
    return Parent(int(match[1], 16), int(match[2], 16), bool(int(match[3], 16) & 1))


def access_log(sample: float) -> Observer:
    """An observer that logs a share of all requests."""

    def log(answered: Answered) -> None:
        if random.random() >= sample:  # noqa: S311 - which requests are logged is no secret
            return
        parent = parse_traceparent(answered.traceparent)
        fields: dict[str, Any] = {
            "protocol": answered.protocol,
            "method": answered.method,
            "path": answered.path,
            "status": answered.status,
            "milliseconds": round(answered.seconds * 1e3, 3),
            "peer": answered.peer,
        }
        if parent is not None:
            fields["trace_id"] = f"{parent.trace_id:032x}"
        _access.info("request", extra={"fields": fields})

    return log
