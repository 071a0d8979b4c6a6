"""One connection to the revision that answers copies: HTTP/1.1, one request at a time, everything bounded."""

import asyncio
from dataclasses import dataclass
from urllib.parse import quote

import httptools

from longshore_server.mirrorcompare import BadAnswerError

KEY_HEADER = "Longshore-Mirror-Key"
"""Header that says: this is a copy of a request, and the sender knows the key."""

_READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """Where copies go.

    Attributes:
        host: name or address.
        port: of its HTTP listener.
        model: name of the model there.
        key: what its server takes copies by, and leases too.
        largest: bytes of an answer that are read at most.
    """

    host: str
    port: int
    model: str
    key: str
    largest: int

    def request(self, json_length: int, length: int) -> bytes:
        """The head of a request with `length` bytes, of which `json_length` are JSON."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            f"POST /v2/models/{quote(self.model, safe='')}/infer HTTP/1.1\r\n"
            f"Host: {host}:{self.port}\r\n"
            "Content-Type: application/octet-stream\r\n"
            f"Inference-Header-Content-Length: {json_length}\r\n"
            f"Content-Length: {length}\r\n"
            f"{KEY_HEADER}: {self.key}\r\n\r\n"
        ).encode("latin-1")


class Connection:
    """A connection; after an error it must be closed. `peer` says to which revision it leads."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target, peer: int
    ) -> None:
        """Made by `connect`."""
        self._reader = reader
        self._writer = writer
        self._target = target
        self.peer = peer
        self.asked = 0
        self.keeps = True

    @classmethod
    async def connect(cls, target: Target, peer: int) -> "Connection":
        """Open one. Raises `OSError`."""
        reader, writer = await asyncio.open_connection(target.host, target.port)
        return cls(reader, writer, target, peer)

    async def ask(self, json_length: int, body: bytes) -> tuple[int, bytes]:
        """Send one request; gives the length of the answer's JSON part and the answer.

        Raises:
            OSError: the connection ended.
            BadAnswerError: another status than 200, too long an answer, or no HTTP.
        """
        self.asked += 1
        self._writer.write(self._target.request(json_length, len(body)))
        self._writer.write(body)
        await self._writer.drain()
        answer = _Answer(self._target.largest)
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise ConnectionResetError("the connection ended before the answer did")
            try:
                parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                raise BadAnswerError(f"it is no HTTP/1.1, or too long: {error}") from None
        self.keeps = parser.should_keep_alive()
        if parser.get_status_code() != 200:
            raise BadAnswerError(f"HTTP {parser.get_status_code()}")
        return answer.json_length, bytes(answer.body)

    def close(self) -> None:
        """Close it now."""
        self._writer.transport.abort()


class _Answer:
    """What llhttp calls while it reads an answer."""

    def __init__(self, largest: int) -> None:
        self.body = bytearray()
        self.json_length = 0
        self.complete = False
        self._largest = largest

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"inference-header-content-length" and value.strip().isdigit():
            self.json_length = int(value[:15])

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > self._largest:
            raise BadAnswerError(f"it is longer than {self._largest} bytes")

    def on_message_complete(self) -> None:
        self.complete = True
