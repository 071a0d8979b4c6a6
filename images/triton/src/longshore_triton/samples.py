"""A port beside Triton's own, for the operator: recorded requests, leases of copies, predictions by bin.

It asks the first of a new revision before clients do, and by the second lets requests be copied to one. What
is answered, and to whom, is the same as on Longshore's own server, but that the answer to a lease is what the
copies count: Triton's metrics have no place for it.
"""

import hmac
import io
import json
import sys
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socket import socket
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from longshore_triton.log import Log
from longshore_triton.mirror import Mirror, RefusedError
from longshore_triton.readers import Readers
from longshore_triton.wanted import Wanted

FILE = "samples.jsonl"

LARGEST = 4 << 20
"""Bytes of all requests together."""

PATH = "/samples"
MIRROR_PATH = "/mirror"
PREDICTIONS_PATH = "/metrics/predictions"
KEY_HEADER = "Longshore-Mirror-Key"
_SOURCE_HEADER = "Longshore-Samples"
_EVALUATION = "evaluation"
_TRAFFIC = "traffic"
"""Where the requests come from: rows of the user's data, or what clients asked lately."""

_LARGEST_HEAD = 8 << 10
"""Bytes of a request's line and headers."""

_PROMETHEUS = "text/plain; version=0.0.4"
_LARGEST_LEASE = 1 << 10
"""Bytes of a request for a lease."""

_END = b"\r\n\r\n"

_HEAD_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
"""How long a client may take to send a request, and to take the answer."""

_MOST_CONNECTIONS = 8
"""At once; further ones are closed. Each may hold an answer of `LARGEST` bytes."""


def find(directory: Path) -> Path | None:
    """Find the recorded requests in an artifact; None where it has none, or a link that leads out of it."""
    file = directory / FILE
    return file if file.is_file() and file.resolve().is_relative_to(directory.resolve()) else None


def serve(artifact: Path, wanted: Wanted, readers: Readers | None, log: Log) -> "SamplesServer | None":
    """Begin to answer whoever knows `wanted.samples_key`, in the background.

    Returns:
        The server; None where there is no key or nothing to give, or the port is taken: the model is served
        all the same.
    """
    file = find(artifact)
    if not wanted.samples_key or (file is None and readers is None):
        return None
    try:
        server = SamplesServer(file, wanted.samples_port, wanted.samples_key, readers, log)
    except OSError as error:
        log.say("warning", f"recorded requests are not given at port {wanted.samples_port}: {error.strerror}")
        return None
    threading.Thread(target=server.serve_forever, name="samples", daemon=True).start()
    return server


class SamplesServer(ThreadingMixIn, TCPServer):
    """Answers one request a connection; its threads end with the process.

    It is no `HTTPServer`: that one asks DNS for its own name, which a pod may not reach.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, file: Path | None, port: int, key: str, readers: Readers | None, log: Log) -> None:
        """Listen at `port`. Raises OSError."""
        self.file = file
        self.readers = readers
        self.key = key.encode()
        self._log = log
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(("0.0.0.0", port), _Handler)  # noqa: S104 (as Triton's own ports)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Answer in a thread, or close what is too much."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Make room for another connection once this one is closed."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Say what went wrong; a client that is slow or goes away is no news."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self._log.say("warning", f"{PATH} failed: {type(error).__name__}: {error}")

    def lines(self, file: Path) -> bytes:
        """Give the requests, at most `LARGEST` bytes of whole lines; nothing where they cannot be read."""
        try:
            with file.open("rb") as stream:
                found = stream.read(LARGEST + 1)
        except OSError as error:
            self._log.say("warning", f"cannot read {file}: {error.strerror}")
            return b""
        return found if len(found) <= LARGEST else found[: found.rfind(b"\n", 0, LARGEST) + 1]


class _Handler(BaseHTTPRequestHandler):
    """One request: read whole before it is looked at, so that its size and its time are bounded."""

    server: SamplesServer
    protocol_version = request_version = "HTTP/1.1"

    def handle(self) -> None:
        received = _received(self.connection, _END, _LARGEST_HEAD)
        self.connection.settimeout(_ANSWER_SECONDS)
        if received is None:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        head, _, self._begun = received.partition(_END)
        self.rfile.close()
        self.rfile = io.BytesIO(head + _END)
        self.raw_requestline = self.rfile.readline() if head else b""
        if self.raw_requestline and self.parse_request():
            self._respond()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        error = {"error": message or HTTPStatus(code).phrase}
        self._send(code, "application/json", json.dumps(error).encode(), {})

    def _respond(self) -> None:
        path = self.path.partition("?")[0]
        key = self.headers.get(KEY_HEADER, "").encode("utf-8", "replace")
        file, readers = self.server.file, self.server.readers
        wanted = (self.command, path)
        if wanted == ("GET", PREDICTIONS_PATH) and readers is not None:
            self._send(HTTPStatus.OK, _PROMETHEUS, readers.predictions.exposition().encode(), {})
        elif wanted not in (("GET", PATH), ("POST", MIRROR_PATH)):
            self.send_error(HTTPStatus.NOT_FOUND, f"no such path: {self.command} {path}")
        elif not hmac.compare_digest(key, self.server.key):
            self.send_error(HTTPStatus.UNAUTHORIZED, f"no valid {KEY_HEADER}: {path} is for the operator")
        elif path == PATH and file is not None:
            self._give(self.server.lines(file), _EVALUATION)
        elif path == PATH and readers is not None:
            self._give(readers.recent.lines(), _TRAFFIC)
        elif path == MIRROR_PATH and readers is not None:
            self._grant(readers.mirror)
        else:
            self.send_error(HTTPStatus.NOT_FOUND, f"there is nothing at {path} here")

    def _give(self, lines: bytes, source: str) -> None:
        self._send(HTTPStatus.OK, "application/jsonl", lines, {_SOURCE_HEADER: source})

    def _grant(self, mirror: Mirror) -> None:
        text = self.headers.get("Content-Length", "")
        length = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if not 0 <= length <= _LARGEST_LEASE:
            self.send_error(
                HTTPStatus.BAD_REQUEST, f"a lease is asked for with at most {_LARGEST_LEASE} bytes"
            )
            return
        body = _received(self.connection, None, length, self._begun)
        try:
            counted = mirror.grant((body or b"")[:length])
        except RefusedError as error:
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
            return
        self._send(HTTPStatus.OK, _PROMETHEUS, counted.encode(), {})

    def _send(self, code: int, kind: str, body: bytes, headers: Mapping[str, str]) -> None:
        fields = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
        self.send_response_only(code)
        for name, value in {**fields, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _received(connection: socket, end: bytes | None, most: int, begun: bytes = b"") -> bytes | None:
    """Read until `end` is there, or `most` bytes are; nothing where the client goes before that.

    Returns:
        What was read; None where `end` is not among the first `most` bytes.

    Raises:
        TimeoutError: it takes too long, however often a byte comes.
    """
    deadline = time.monotonic() + _HEAD_SECONDS
    found = begun
    while end not in found if end is not None else len(found) < most:
        room = most - len(found)
        if not room:
            return None
        connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        received = connection.recv(room)
        if not received:
            return b""
        found += received
    return found
