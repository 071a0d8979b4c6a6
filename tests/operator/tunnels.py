"""What stands between the operator and the API server, and kubeconfigs that lead there."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Self

import yaml

from e2e.cluster.apiserver import ApiServer


def kubeconfig_of(api: ApiServer, folder: Path, /, **cluster: str) -> Path:
    """Write the administrator's kubeconfig with other words about the cluster, `_` for `-`."""
    content: dict[str, Any] = yaml.safe_load(api.kubeconfig.read_text())
    content["clusters"][0]["cluster"] |= {key.replace("_", "-"): value for key, value in cluster.items()}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


class Relay:
    """Stands between the operator and the API server, and cuts what goes through when told."""

    scheme = "https"

    def __init__(self, server: ApiServer) -> None:
        self._upstream = int(server.url.rpartition(":")[2])
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None] | None] = set()
        self.silent = False
        """Whether what comes is dropped."""
        self.deaf = False
        """Whether what clients say is dropped."""
        self.dropped = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"{self.scheme}://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        everything = list(self._open)
        self.cut()
        await asyncio.gather(*filter(None, self._serving))
        await asyncio.gather(*(writer.wait_closed() for writer in everything), return_exceptions=True)

    async def left(self) -> None:
        """Await that every client that came has gone."""
        _, staying = await asyncio.wait(filter(None, self._serving), timeout=10)
        assert not staying, f"{len(staying)} connections are still open"

    def cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        await self._greet(reader, writer)
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        self._open |= {writer, back}
        await asyncio.gather(self._pump(reader, back, asks=True), self._pump(there, writer))

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Nothing is said before the server is."""

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asks: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.silent or (asks and self.deaf):
                    self.dropped.set()
                    continue
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._open.discard(writer)


class Proxy(Relay):
    """An HTTP proxy that opens tunnels to the API server (RFC 9110, CONNECT); notes what it is asked for."""

    scheme = "http"

    def __init__(self, server: ApiServer) -> None:
        super().__init__(server)
        self.asked: list[str] = []

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")[0])
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
