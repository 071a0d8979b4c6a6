"""One HTTP/1.1 listener: what its connections share.

Equal heads parse equally, so parsed heads are kept by their bytes: a client that repeats its request pays
for the grammar once.
"""

import asyncio
from typing import Protocol

from longshore_server.config import Limits
from longshore_server.errors import RequestError, too_large
from longshore_server.httpconnection import RECEIVE_BYTES, HttpConnection
from longshore_server.httpexchange import Exchange
from longshore_server.httphead import Body, RequestHead, parse_head
from longshore_server.metrics import Metrics
from longshore_server.tracing import Observer

_MAX_CACHED_HEADS = 4096
_MAX_CACHED_HEAD_BYTES = 2048


class Router(Protocol):
    """Where requests go."""

    def route(self, head: RequestHead) -> None:
        """Set the head's endpoint.

        Raises `RequestError`, which is answered without closing the connection.
        """


class HttpServer:
    """What all connections of one listener share."""

    def __init__(
        self, router: Router, limits: Limits, metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        """`router` is asked once for each distinct head."""
        self.router = router
        self.limits = limits
        self.metrics = metrics
        self.loop = loop
        self.connections: set[HttpConnection] = set()
        self.heads: dict[bytes, RequestHead] = {}
        self.draining = False
        self.body_bytes = 0
        # One buffer for all: the loop hands over what it read before it reads for another connection.
        self.receive_buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.observer: Observer | None = None

    def __call__(self) -> HttpConnection:
        """A protocol for a new connection."""
        return HttpConnection(self)

    def forget_heads(self) -> None:
        """Parse and route every head anew, after what they were checked against has changed."""
        self.heads.clear()

    def resolve(self, data: bytes) -> RequestHead:
        """Parse and route a head that is not known yet."""
        head = parse_head(data)
        limit = self.limits.body_bytes
        if head.content_length > limit:
            raise too_large(f"the body has {head.content_length} bytes, the limit is {limit}")
        try:
            self.router.route(head)
        except RequestError as error:
            head.endpoint = _Refuse(error)
            return head
        if len(data) <= _MAX_CACHED_HEAD_BYTES:
            if len(self.heads) >= _MAX_CACHED_HEADS:
                self.heads.clear()
            self.heads[data] = head
        return head

    def begin_drain(self) -> None:
        """From now on every answer closes its connection: whoever uses it goes elsewhere by itself."""
        self.draining = True

    def drain(self) -> None:
        """Close the connections that are idle; one in use closes with its answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()

    def sweep(self, now: float) -> None:
        """Close connections that have waited too long; `now` on the clock of `time.monotonic`."""
        for connection in list(self.connections):
            connection.enforce_timeouts(now)


class _Refuse:
    """The endpoint of a head that the router refused."""

    __slots__ = ("error",)

    def __init__(self, error: RequestError) -> None:
        self.error = error

    def __call__(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        exchange.fail(self.error)
