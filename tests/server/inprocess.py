"""The server's protocols without sockets: bytes in, bytes out, on a real model and a real batcher."""

import asyncio
from pathlib import Path
from typing import Any

from longshore_server.app import App
from longshore_server.artifact import locate
from longshore_server.batcher import Batcher, BatchingOptions
from longshore_server.config import Limits
from longshore_server.grpcserver import GrpcServer
from longshore_server.grpcservice import GrpcService
from longshore_server.httpserver import HttpServer
from longshore_server.inference import Admission
from longshore_server.loading import Loaded, load
from longshore_server.metrics import Metrics, SharedMemory
from longshore_server.served import ServedModel
from longshore_server.session import SessionOptions

LIMITS = Limits(
    body_bytes=1 << 20,
    header_bytes=4096,
    in_flight_bytes=4 << 20,
    connections=100,
    tensor_rank=8,
    header_timeout=10,
    body_timeout=10,
    write_timeout=10,
    idle_timeout=100,
)


class Transport(asyncio.Transport):
    """Collects what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False
        self.eof = False

    def write(self, data: Any) -> None:
        assert not self.closing, "a write after the end"
        self.written += data

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.write(part)

    def write_eof(self) -> None:
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default


_loaded: dict[Path, Loaded] = {}


class InProcess:
    """One server; made inside a running event loop."""

    def __init__(self, model: Path, limits: Limits = LIMITS, queue_size: int = 100) -> None:
        if model not in _loaded:
            _loaded[model] = load(locate(model), SessionOptions(), "auto", 16, lambda rows: None)
        loaded = _loaded[model]
        loop = asyncio.get_running_loop()
        self.metrics = Metrics(SharedMemory(1), 0, 0.1, "", "")
        self.batcher = Batcher(loaded.engine, BatchingOptions(0.1, 16, queue_size, 10.0), self.metrics, loop)
        served = ServedModel(
            name=model.name,
            version="1",
            admission=Admission(loaded.engine.signature, loaded.batched, limits.tensor_rank, loaded.cost),
            batcher=self.batcher,
            metrics=self.metrics,
            max_batch_size=16,
            ready=True,
        )
        self.metrics.ready(True)
        self.app = App(model.name, "1", self.metrics, None, limits.body_bytes)
        self.app.serve(served)
        service = GrpcService(model.name, "1", self.metrics, None)
        service.serve(served)
        self.http = HttpServer(self.app, limits, self.metrics, loop)
        self.grpc = GrpcServer(service, limits, self.metrics, loop)

    async def settle(self) -> None:
        """Let everything that is due happen."""
        await asyncio.sleep(0)
        await self.batcher.wait_idle()
        for _ in range(3):
            await asyncio.sleep(0)

    async def http_answer(self, *pieces: bytes) -> tuple[bytes, bool]:
        """What one connection answers to these pieces, and whether it is closed then."""
        connection, transport = self.http(), Transport()
        connection.connection_made(transport)
        for piece in pieces:
            self.http_feed(connection, transport, piece)
        await self.settle()
        await self.settle()
        answer, closed = bytes(transport.written), transport.closing or transport.eof
        connection.connection_lost(None)
        self.batcher.close()
        return answer, closed

    def http_feed(self, connection: Any, transport: Transport, data: bytes) -> None:
        view = memoryview(data)
        while len(view) and not transport.closing:
            buffer = connection.get_buffer(-1)
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            connection.buffer_updated(size)
            view = view[size:]

    async def grpc_answer(self, *pieces: bytes) -> tuple[bytes, bool]:
        """The same for gRPC."""
        connection, transport = self.grpc(), Transport()
        connection.connection_made(transport)
        for piece in pieces:
            if not transport.closing:
                connection.data_received(piece)
        await self.settle()
        await self.settle()
        answer, closed = bytes(transport.written), transport.closing
        connection.connection_lost(None)
        self.batcher.close()
        return answer, closed
