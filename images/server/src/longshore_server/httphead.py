"""Parses the head of one HTTP/1 request, strictly: what two servers could read differently is refused.

llhttp (through httptools) does the grammar; what follows it here are the rules of RFC 9112 that it leaves
to its caller, and stricter ones where leniency has led to request smuggling.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools

from longshore_server.errors import GrpcStatus, RequestError, bad_request

if TYPE_CHECKING:
    from longshore_server.httpexchange import Exchange

Body = Any  # bytes or memoryview
Endpoint = Callable[["Exchange", "RequestHead", Body], None]

_MAX_HEADERS = 100
_MAX_LENGTH_DIGITS = 15
_DIGITS = re.compile(rb"[0-9]+")
# A bare CR or LF, a NUL, and a line that begins with white space (obs-fold, RFC 9112 section 5.2).
_FORBIDDEN = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0|\r\n[ \t]")
# Headers of which a second one changes the meaning of the message.
_SINGLE = frozenset((b"content-length", b"transfer-encoding", b"host", b"content-type", b"content-encoding",
                     b"inference-header-content-length", b"authorization", b"expect"))  # fmt: skip


class RequestHead:
    """One request's head. Immutable by convention: equal bytes share one object.

    `content_length` is 0 without a body; with `chunked` it says nothing. `endpoint` is where the path leads.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "endpoint",
        "expects_continue",
        "headers",
        "is_inference",
        "json_length",
        "keep_alive",
        "method",
        "path",
        "plain",
        "query",
    )

    def __init__(self) -> None:
        self.method = ""
        self.path = ""
        self.query = ""
        self.headers: dict[bytes, bytes] = {}
        self.content_length = 0
        self.chunked = False
        self.keep_alive = True
        self.expects_continue = False
        # Length of the JSON part in the binary tensor extension; -1 when the body is all JSON.
        self.json_length = -1
        self.endpoint: Endpoint
        self.is_inference = False
        # No content coding either way and no tracing: the body goes to its endpoint as it is.
        self.plain = True

    def header(self, name: bytes) -> str:
        """The value of the header with this lower-case name; empty when absent."""
        return self.headers.get(name, b"").decode("latin-1")


class _Callbacks:
    """What llhttp calls while it reads a head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= _MAX_HEADERS:
            raise RequestError(431, GrpcStatus.INVALID_ARGUMENT, f"more than {_MAX_HEADERS} headers")
        self.headers.append((name.lower(), value))


def parse_head(data: bytes) -> RequestHead:
    """Parse `data`, a head with its final empty line.

    Raises `RequestError` (the connection must be closed).
    """
    if _FORBIDDEN.search(data):
        raise bad_request("the head has a bare CR or LF, a NUL or a folded line, which are refused")
    callbacks = _Callbacks()
    parser = httptools.HttpRequestParser(callbacks)
    try:
        parser.feed_data(data)
        version, method = parser.get_http_version(), parser.get_method()
        keep_alive = parser.should_keep_alive()
    except httptools.HttpParserUpgrade:
        # No other protocol is offered, so the request is answered as the HTTP/1.1 request that it is.
        version, method, keep_alive = parser.get_http_version(), parser.get_method(), True
    except httptools.HttpParserCallbackError as error:
        if isinstance(error.__context__, RequestError):
            raise error.__context__ from None
        raise bad_request("the head cannot be read as HTTP/1.1") from None
    except httptools.HttpParserError as error:
        raise bad_request(f"the head cannot be read as HTTP/1.1: {error}") from None
    head = RequestHead()
    head.method = method.decode("latin-1")
    head.keep_alive = keep_alive
    head.headers = _joined(callbacks.headers)
    _set_target(head, callbacks.url)
    _set_framing(head, version)
    return head


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, padded in headers:
        value = padded.strip(b" \t")
        if name not in found:
            found[name] = value
        elif name in _SINGLE:
            raise bad_request(f"the header {name.decode('latin-1')} is there twice")
        else:
            found[name] += b", " + value
    return found


def _set_target(head: RequestHead, url: bytes) -> None:
    try:
        parsed = httptools.parse_url(url)
        head.path = unquote((parsed.path or b"/").decode("ascii"), errors="strict")
        head.query = (parsed.query or b"").decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        raise bad_request("the request target is no valid path") from None


def _set_framing(head: RequestHead, version: str) -> None:
    headers = head.headers
    if version not in ("1.0", "1.1"):
        raise RequestError(
            505, GrpcStatus.INVALID_ARGUMENT, f"HTTP/{version} is not spoken here, HTTP/1.1 is"
        )
    if version == "1.1" and b"host" not in headers:
        raise bad_request("the Host header is missing")
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if length is not None and coding is not None:
        raise bad_request("Content-Length and Transfer-Encoding exclude each other")
    if coding is not None:
        if coding.lower() != b"chunked" or version == "1.0":
            raise RequestError(
                501, GrpcStatus.UNIMPLEMENTED, "the only Transfer-Encoding taken is chunked in HTTP/1.1"
            )
        head.chunked = True
    if length is not None:
        head.content_length = _whole(length, "Content-Length")
    if (json_length := headers.get(b"inference-header-content-length")) is not None:
        head.json_length = _whole(json_length, "Inference-Header-Content-Length")
    expect = headers.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise RequestError(417, GrpcStatus.INVALID_ARGUMENT, "the only expectation met is 100-continue")
        head.expects_continue = version == "1.1"


def _whole(text: bytes, name: str) -> int:
    if not _DIGITS.fullmatch(text) or len(text) > _MAX_LENGTH_DIGITS:
        raise bad_request(f"{name} is no whole number")
    return int(text)
