"""One gRPC call: what it asks for, how far it has come, and the ways to answer it."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from longshore_server.errors import RequestError
from longshore_server.headerblocks import Headers
from longshore_server.http2frames import UINT32


class Answering(Protocol):
    """Sends the answers of one connection's streams."""

    def reply(self, stream: "Stream", parts: tuple[bytes | memoryview, ...]) -> None:
        """Answer a unary call with one message, given in parts."""

    def send(self, stream: "Stream", parts: tuple[bytes | memoryview, ...]) -> None:
        """Send one message of a streaming answer."""

    def finish(self, stream: "Stream", error: RequestError | None = None) -> None:
        """End the answer, with an error or well."""


class Method:
    """What a header block asks for; shared by all calls with the same block.

    `handle` gets each message of a call. `error` is what to answer at once instead. `timeout` in seconds.
    """

    __slots__ = ("coding", "error", "handle", "headers", "streaming", "timeout")

    def __init__(
        self,
        handle: "Callable[[Stream, bytes | memoryview], None] | None",
        streaming: bool = False,
        error: RequestError | None = None,
        timeout: float | None = None,
        coding: str = "",
        headers: Headers | None = None,
    ) -> None:
        self.handle = handle
        self.streaming = streaming
        self.error = error
        self.timeout = timeout
        self.coding = coding
        self.headers = headers or {}


class Service(Protocol):
    """What the calls mean."""

    def resolve(self, headers: Headers) -> Method:
        """The method that the headers ask for; mistakes are in its `error`."""

    def refused(self, stream: "Stream", error: RequestError) -> None:
        """A message of a call was refused: count it and end the call or, in a stream, answer it."""


class PartialMessage:
    """A message of which not all is here; first its prefix, then itself.

    `since`, when it began, on the clock of `time.monotonic`.
    """

    __slots__ = ("buffer", "compressed", "filled", "in_prefix", "since")

    def __init__(self, prefix_bytes: int, since: float) -> None:
        self.buffer = bytearray(prefix_bytes)
        self.filled = 0
        self.in_prefix = True
        self.compressed = 0
        self.since = since


class Stream:
    """One call.

    `send_window`: bytes that the client lets be sent. `received`: bytes taken and not yet granted again.
    `reserved`: bytes of messages counted against the listener's limit. `opened`, on the clock of
    `time.perf_counter`, is 0 when nobody wants to know.
    """

    __slots__ = (
        "_answering",
        "cancelled",
        "client_done",
        "id",
        "id_bytes",
        "messages",
        "method",
        "open_answers",
        "opened",
        "out",
        "partial",
        "received",
        "reserved",
        "responded",
        "send_window",
        "status",
        "trailers",
    )

    def __init__(
        self, answering: Answering, number: int, method: Method, send_window: int, opened: float = 0.0
    ) -> None:
        self._answering = answering
        self.id = number
        self.id_bytes = UINT32.pack(number)
        self.method = method
        self.send_window = send_window
        self.opened = opened
        self.partial: PartialMessage | None = None
        self.received = 0
        self.reserved = 0
        self.messages = 0
        self.client_done = False
        self.cancelled = False
        self.responded = False
        self.open_answers = 0
        self.out: deque[memoryview] | None = None
        self.trailers: bytes | None = None
        self.status = 0

    def reply(self, parts: tuple[bytes | memoryview, ...]) -> None:
        """Answer a unary call with one message, given in parts."""
        self._answering.reply(self, parts)

    def send(self, parts: tuple[bytes | memoryview, ...]) -> None:
        """Send one message of a streaming answer."""
        self._answering.send(self, parts)

    def finish(self, error: RequestError | None = None) -> None:
        """End the answer, with an error or well."""
        self._answering.finish(self, error)
