"""A real activator on loopback, and pods that are real sockets."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from longshore_activator.activator import Activator, Settings
from longshore_activator.config import Routes


def cut(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of an end of data."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def ask(port: int, text: bytes = b"hello") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text)
        writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


class Pod:
    """A server that answers the readiness question and echoes everything else, upper-cased."""

    def __init__(self) -> None:
        self.ready = True
        self.connections = 0
        self.server: asyncio.Server | None = None
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def listen(self, address: str = "127.0.0.1", port: int = 0) -> "Pod":
        self.server = await asyncio.start_server(self._serve, address, port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError):
            first = await reader.read(65536)
            if first.startswith(b"GET /v2/health/ready"):
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % (200 if self.ready else 503))
                await writer.drain()
            else:
                self.connections += 1
                while first:
                    writer.write(first.upper())
                    await writer.drain()
                    first = await reader.read(65536)
        writer.close()

    async def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()


class Harness:
    """An activator with short-hand for one model."""

    def __init__(self, activator: Activator) -> None:
        self.activator = activator
        self.version = 0

    def route(
        self, pods: list[tuple[str, bool]], target: int, listen: int = 0, **more: object
    ) -> dict[str, object]:
        return {
            "key": "team/digits",
            "ports": [{"name": "http", "listen": listen, "target": target}],
            "endpoints": [{"address": a, "ready": r} for a, r in pods],
            **more,
        }

    def apply(self, *routes: dict[str, object]) -> None:
        self.version += 1
        self.activator.apply(Routes.model_validate({"version": self.version, "routes": list(routes)}))

    def port(self, key: str = "team/digits", name: str = "http") -> int:
        ports = self.activator.describe()["ports"]
        assert isinstance(ports, dict)
        return int(ports[key][name])

    def number(self, name: str, key: str = "team/digits") -> int:
        snapshot = self.activator.snapshot(key)
        assert snapshot is not None
        return int(snapshot[name])  # type: ignore[call-overload,no-any-return]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - conditions of another component
                await asyncio.sleep(0.005)


@pytest.fixture
async def make_harness() -> AsyncIterator[Callable[..., Awaitable[Harness]]]:
    made: list[tuple[Activator, asyncio.Task[None]]] = []

    async def make(**settings: object) -> Harness:
        activator = Activator(Settings(bind="127.0.0.1", **settings))  # type: ignore[arg-type]
        made.append((activator, asyncio.create_task(activator.sweep())))
        return Harness(activator)

    yield make
    for activator, sweeper in made:
        activator.close()
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
    await asyncio.sleep(0)


@pytest.fixture
async def harness(make_harness: Callable[..., Awaitable[Harness]]) -> Harness:
    return await make_harness()


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    made = await Pod().listen()
    yield made
    await made.close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
