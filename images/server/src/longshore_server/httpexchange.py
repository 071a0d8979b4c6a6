"""One request of an HTTP/1.1 connection and the ways to answer it: all that endpoints know of HTTP."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import orjson

from longshore_server import compression
from longshore_server.errors import RequestError
from longshore_server.httphead import Body, RequestHead
from longshore_server.metrics import Metrics

_LARGE_ANSWER = 64 << 10
_SMALL_WORK = 4 << 10

_OK_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
_REASONS = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


class Exchange:
    """The request that a connection works on, `head`; None between two requests.

    `started` (on the clock of `time.perf_counter`) is when an inference began, `answers` how many requests
    have been answered.
    """

    __slots__ = (
        "_close_after",
        "_loop",
        "_metrics",
        "answers",
        "closed",
        "head",
        "started",
        "status",
        "transport",
    )
    transport: asyncio.Transport

    def __init__(self, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        """`transport` is set when the connection is made."""
        self.closed = False
        self.head: RequestHead | None = None
        self.answers = 0
        self.status = 0
        self.started = 0.0
        self._close_after = False
        self._metrics = metrics
        self._loop = loop

    def _answered(self) -> None:
        """An answer has been written whole."""
        raise NotImplementedError

    def _overloaded(self) -> None:
        """The answer is that the server is overloaded."""
        raise NotImplementedError

    def run_aside(self, size: int, work: Callable[[], Body], then: Callable[[Body], None]) -> None:
        """Do `work` about `size` bytes off the event loop when they are many, then go on with its result."""
        if size <= _SMALL_WORK:
            then(work())
            return

        def done(future: asyncio.Future[Body]) -> None:
            if self.closed:
                return
            try:
                then(future.result())
            except RequestError as error:
                self._failed(error)

        self._loop.run_in_executor(None, work).add_done_callback(done)

    def _failed(self, error: RequestError) -> None:
        if self.head is not None and self.head.is_inference:
            self._metrics.request_failed(error)
        self.fail(error)

    def answer(self, body: Body, content_type: bytes, headers: bytes = b"", status: int = 200) -> None:
        """Answer the current request; `headers` are further complete lines, each with its CR LF."""
        head = self.head
        if head is None or head.plain or len(body) < compression.MIN_BYTES:
            self._answer_as_is(body, content_type, headers, status)
            return
        coding = compression.choose(head.header(b"accept-encoding"))
        headers += b"Content-Encoding: %b\r\nVary: Accept-Encoding\r\n" % coding.encode()
        self.run_aside(
            len(body),
            lambda: compression.compress(coding, body),
            lambda encoded: self._answer_as_is(encoded, content_type, headers, status),
        )

    def _answer_as_is(self, body: Body, content_type: bytes, headers: bytes, status: int) -> None:
        self.status = status
        length = str(len(body)).encode()
        head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\n%bContent-Length: %b\r\n\r\n" % (
            _REASONS[status],
            content_type,
            headers + b"Connection: close\r\n" if self._close_after else headers,
            length,
        )
        if self.head is not None and self.head.method == "HEAD":
            self.write(head)
        elif len(body) > _LARGE_ANSWER:
            self.write_parts([head, body])
        else:
            self.write(head + bytes(body))

    def answer_json(self, document: object, status: int = 200) -> None:
        """Answer with a JSON document."""
        self.answer(orjson.dumps(document), b"application/json", status=status)

    def answer_parts(
        self, first: bytes, second: bytes | memoryview, content_type: bytes, headers: bytes
    ) -> None:
        """Answer 200 with a body in two parts; a large second one is not copied."""
        assert self.head is not None
        if self._close_after or not self.head.plain:
            self.answer(b"".join((first, second)), content_type, headers)
            return
        self.status = 200
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
            content_type,
            headers,
            len(first) + len(second),
            first,
        )
        if len(second) > _LARGE_ANSWER:
            self.write_parts([head, second])
        else:
            self.write(b"".join((head, second)))

    def answer_json_bytes(self, body: bytes) -> None:
        """Answer 200 with JSON text: the shortest way there is."""
        assert self.head is not None
        if self._close_after or not self.head.plain:
            self.answer(body, b"application/json")
            return
        self.status = 200
        self.write(b"%b%d\r\n\r\n%b" % (_OK_JSON, len(body), body))

    def write(self, data: bytes) -> None:
        """Write a whole answer."""
        if not self.closed:
            self.transport.write(data)
            self._answered()

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """Write a whole answer from parts that are not copied."""
        if not self.closed:
            self.transport.writelines(parts)
            self._answered()

    def fail(self, error: RequestError, close: bool = False) -> None:
        """Answer the current request with an error, in the shape that the Open Inference Protocol gives
        errors.
        """
        self._close_after = self._close_after or close
        headers = b""
        if error.retry_after is not None:
            headers += b"Retry-After: %d\r\n" % error.retry_after
            self._overloaded()
        if error.status == 401:
            headers += b'WWW-Authenticate: Bearer realm="longshore"\r\n'
        self.answer(orjson.dumps({"error": error.message}), b"application/json", headers, error.status)
