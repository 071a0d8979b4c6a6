"""How a kubeconfig leads to the API server: through a proxy, and under another name than its address."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from longshore.cluster import Cluster, ClusterError
from longshore.resources.kinds import SERVICE

from e2e.cluster.apiserver import ApiServer

pytestmark = pytest.mark.apiserver


def _kubeconfig(server: ApiServer, folder: Path, **cluster: str) -> str:
    """Write the administrator's kubeconfig with more words about the cluster."""
    content: dict[str, Any] = yaml.safe_load(server.kubeconfig.read_text())
    content["clusters"][0]["cluster"] |= {key.replace("_", "-"): value for key, value in cluster.items()}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return str(path)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@contextlib.asynccontextmanager
async def _proxy(asked: list[str]) -> AsyncIterator[str]:
    """An HTTP proxy that opens tunnels (RFC 9110, CONNECT); gives its URL, and notes what it is asked for."""
    serving: list[asyncio.Task[None] | None] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        line, *_ = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        asked.append(line)
        host, _, port = line.split()[1].rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, back), _pump(there, writer))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        await asyncio.gather(*filter(None, serving))


async def test_requests_and_watches_go_through_the_proxy_of_the_kubeconfig(
    apiserver: ApiServer, tmp_path: Path
) -> None:
    asked: list[str] = []
    async with _proxy(asked) as url:
        kubeconfig = _kubeconfig(apiserver, tmp_path, proxy_url=url)
        async with await Cluster.connect(kubeconfig) as cluster:
            listed = await cluster.list(SERVICE, "default")
            events = cluster.watch(SERVICE, "default", "", "0")
            assert (await anext(events))[1]["kind"] == "Service"
    address = apiserver.url.removeprefix("https://")
    assert set(asked) == {f"CONNECT {address} HTTP/1.1"}
    assert listed["kind"] == "ServiceList"


async def test_the_server_is_held_to_the_name_that_the_kubeconfig_gives_it(
    apiserver: ApiServer, tmp_path: Path
) -> None:
    right = _kubeconfig(apiserver, tmp_path, tls_server_name="kubernetes.default.svc")
    async with await Cluster.connect(right) as cluster:
        assert (await cluster.list(SERVICE, "default"))["kind"] == "ServiceList"
    wrong = _kubeconfig(apiserver, tmp_path, tls_server_name="elsewhere.example")
    async with await Cluster.connect(wrong) as cluster:
        with pytest.raises(ClusterError, match=r"elsewhere\.example"):
            await cluster.list(SERVICE, "default")
