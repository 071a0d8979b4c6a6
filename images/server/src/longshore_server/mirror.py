"""Sends copies of answered requests to another revision and compares its answers with one's own.

A copy is made after the client has its answer, so nothing that becomes of it can change or delay that one;
what copying and comparing take of the event loop's time is bounded by a share of it. The copy is made from
the tensors, whatever protocol they came by, and always is one of the Open Inference Protocol with binary
tensors.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import orjson

from longshore_server.dtypes import Array, pack_bytes
from longshore_server.inference import payload_length
from longshore_server.mirrorclient import Connection, Target
from longshore_server.mirrorcompare import BadAnswerError, parse_answer, same

if TYPE_CHECKING:
    from longshore_server.inference import Outputs, Work
    from longshore_server.metrics import Metrics
    from longshore_server.session import Signature

T = TypeVar("T")
_log = logging.getLogger(__name__)

LARGEST = 8 << 20
"""Bytes of a request, or of an answer, up to which it is copied and compared."""

SHARE = 0.05
"""The most of the event loop's time that copying and comparing may take."""

_CONNECTIONS = 4
_QUEUE = 32
_QUEUED_BYTES = 32 << 20
_DEADLINE = 5.0
_IDLE = 5.0
_TELL_AGAIN = 30.0
_WORN = 64
"""Requests after which a connection begins anew: a Service spreads connections, not requests."""

_SMALL = 64 << 10
"""Bytes up to which answers are compared on the event loop's thread."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A request to send, and what was answered to it here."""

    json_length: int
    body: bytes
    own: list[Array]
    rows: bool
    size: int
    peer: int
    tolerance: float


class Mirror:
    """The mirror of one worker. All methods are for the event loop's thread."""

    def __init__(
        self,
        target: Target,
        signature: "Signature",
        metrics: "Metrics",
        deadline: float = _DEADLINE,
    ) -> None:
        """Nothing is sent while nobody asks for it; `deadline` in seconds is for one copy."""
        self._target = target
        self._signature = signature
        self._lease = metrics.lease
        self._metrics = metrics
        self._deadline = deadline
        self._queue: asyncio.Queue[_Copy] = asyncio.Queue(_QUEUE)
        self._queued_bytes = 0
        self._senders: set[asyncio.Task[None]] = set()
        self._idle = 0
        self._due = 0.0
        self._told = -_TELL_AGAIN

    def observe(self, works: "Sequence[Work]", outputs: "Outputs") -> None:
        """These requests were answered with these outputs."""
        share = self._lease.share
        if not share:
            return
        start = 0
        for work in works:
            if not work.copied and (share >= 1 or random.random() < share):  # noqa: S311 - a sample, no secret
                self._take(work, outputs, start)
            start += work.rows

    def close(self) -> None:
        """Send nothing more."""
        for sender in self._senders:
            sender.cancel()

    def _take(self, work: "Work", outputs: "Outputs", start: int) -> None:
        """Queue a copy, or drop it: nobody waits for it."""
        if time.perf_counter() < self._due or self._queue.full():
            self._metrics.mirror_dropped()
            return
        try:
            copy = self._spend(lambda: self._copy(work, outputs, start))
        except Exception as error:  # noqa: BLE001 - whatever fails here must not reach those who ask
            self._tell(f"a request could not be copied: {error!r}")
            copy = None
        if copy is None:
            self._metrics.mirror_dropped()
            return
        self._queued_bytes += copy.size
        self._queue.put_nowait(copy)
        if not self._idle and len(self._senders) < _CONNECTIONS:
            sender = asyncio.get_running_loop().create_task(self._send())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)

    def _copy(self, work: "Work", outputs: "Outputs", start: int) -> _Copy | None:
        own = [outputs.array(index, start, work.rows) for index in range(len(outputs.arrays))]
        answered = sum(array.nbytes for array in own)
        asked = sum(map(payload_length, work.payloads))
        if max(asked, answered) > LARGEST or self._queued_bytes + asked + answered > _QUEUED_BYTES:
            return None
        json_length, body = encode(self._signature, work)
        return _Copy(
            json_length,
            body,
            # Views would keep the arrays of the whole batch.
            [array.copy() for array in own],
            work.group.batched,
            len(body) + answered,
            self._lease.peer,
            self._lease.tolerance,
        )

    def _spend(self, work: Callable[[], T]) -> T:
        """Do something, and nothing more for as long as makes it a small share of the time."""
        began = time.perf_counter()
        try:
            return work()
        finally:
            now = time.perf_counter()
            self._due = max(self._due, now) + (now - began) / SHARE

    async def _send(self) -> None:
        """Send what is queued, until there is nothing for a while."""
        connection: Connection | None = None
        try:
            while True:
                self._idle += 1
                try:
                    async with asyncio.timeout(_IDLE):
                        copy = await self._queue.get()
                except TimeoutError:
                    return
                finally:
                    self._idle -= 1
                self._queued_bytes -= copy.size
                connection = await self._one(copy, connection)
        finally:
            if connection is not None:
                connection.close()

    async def _one(self, copy: _Copy, connection: Connection | None) -> Connection | None:
        """Send one copy and compare; gives the connection while it can be used again."""
        keeps = False
        try:
            async with asyncio.timeout(self._deadline):
                connection = await self._connected(copy.peer, connection)
                json_length, body = await connection.ask(copy.json_length, copy.body)
            agrees = await self._compare(copy, json_length, body)
            self._metrics.mirror_compared(differs=not agrees)
            keeps = connection.keeps
        except (OSError, TimeoutError, BadAnswerError) as error:
            self._metrics.mirror_failed()
            host, port = self._target.host, self._target.port
            self._tell(f"a copy was not answered by {host}:{port}: {str(error) or type(error).__name__}")
        finally:
            if connection is not None and not keeps:
                connection.close()
        return connection if keeps else None

    async def _connected(self, peer: int, connection: Connection | None) -> Connection:
        if connection is not None:
            if connection.peer == peer and connection.asked < _WORN:
                return connection
            connection.close()
        return await Connection.connect(self._target, peer)

    async def _compare(self, copy: _Copy, json_length: int, body: bytes) -> bool:
        def compare() -> bool:
            answer = parse_answer(body, json_length)
            return same(self._signature.outputs, copy.own, answer, copy.rows, copy.tolerance)

        if copy.size + len(body) <= _SMALL:
            return self._spend(compare)
        return await asyncio.get_running_loop().run_in_executor(None, lambda: self._spend(compare))

    def _tell(self, what: str) -> None:
        """Log what fails, now and then."""
        now = time.monotonic()
        if now - self._told >= _TELL_AGAIN:
            self._told = now
            _log.warning("%s", what)


def encode(signature: "Signature", work: "Work") -> tuple[int, bytes]:
    """Write a request of the Open Inference Protocol; gives the length of its JSON part, and all of it."""
    tensors, blobs = [], []
    group = work.group
    for spec, shape, payload in zip(signature.inputs, group.shapes, work.payloads, strict=True):
        blob = pack_bytes(payload) if spec.datatype.is_bytes else payload
        blobs.append(blob)
        tensors.append(
            {
                "name": spec.name,
                "datatype": spec.datatype.name,
                "shape": [work.rows, *shape] if group.batched else list(shape),
                "parameters": {"binary_data_size": memoryview(blob).nbytes},
            }
        )
    document = orjson.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}})
    return len(document), b"".join((document, *blobs))
