"""What passes through a splice: bytes in order, half-closes, resets, backpressure."""

import asyncio
import contextlib
import hashlib
import random
import socket

import pytest
from longshore_activator.poller import Poller
from longshore_activator.relay import Buffer, Relay

from tests.activator.conftest import ask, cut


async def test_half_close_passes_both_ways(harness, pod):
    harness.apply(harness.route([("127.0.0.1", True)], pod.port))
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    writer.write(b"abc")
    writer.write_eof()
    assert await reader.read() == b"ABC"
    writer.close()
    await harness.until(lambda: harness.number("active") == 0)


async def test_bytes_arrive_unchanged_under_backpressure():
    """A slow reader must neither lose nor reorder a byte, whatever the sizes of reads."""
    loop = asyncio.get_running_loop()
    client, near = socket.socketpair()
    far, server = socket.socketpair()
    for sock in (client, near, far, server):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    closed = loop.create_future()
    poller = Poller(loop)
    Relay(poller, Buffer(), near, far, b"first-", False, lambda relay: closed.set_result(True))
    seed = random.Random(5)
    payload = seed.randbytes(3_000_000)

    async def send() -> None:
        await loop.sock_sendall(client, payload)
        client.shutdown(socket.SHUT_WR)

    async def receive() -> bytes:
        got = bytearray()
        while more := await loop.sock_recv(server, seed.randrange(1, 50_000)):
            got += more
            if seed.random() < 0.05:
                await asyncio.sleep(0.001)
        return bytes(got)

    sending = asyncio.create_task(send())
    got = await receive()
    await sending
    assert hashlib.sha256(got).digest() == hashlib.sha256(b"first-" + payload).digest()
    await loop.sock_sendall(server, b"answer")
    server.close()
    assert await loop.sock_recv(client, 100) == b"answer"
    assert await loop.sock_recv(client, 100) == b""
    await closed
    client.close()
    poller.close()


async def test_receivers_that_take_nothing_are_read_less_for_once_much_is_kept(harness):
    """However many stall: what is kept for each of the later ones is what one small read took."""
    sockets = [*socket.socketpair(), *socket.socketpair()]
    client, near, far, server = sockets
    for sock in sockets:
        sock.setblocking(False)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    poller, buffer = Poller(asyncio.get_running_loop()), Buffer()
    buffer.kept = others = 64 << 20
    relay = Relay(poller, buffer, near, far, b"", False, lambda relay: None)

    def waits() -> bool:
        with contextlib.suppress(BlockingIOError):
            client.send(bytes(1 << 20))
        return buffer.kept > others

    await harness.until(waits)
    kept = buffer.kept - others
    relay.abort()
    left = buffer.kept - others
    for sock in sockets:
        sock.close()
    poller.close()
    assert kept <= 64 * 1024
    assert left == 0


async def test_reset_by_the_pod_reaches_the_client_as_a_reset(harness, pod):
    harness.apply(harness.route([("127.0.0.1", True)], pod.port))
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    writer.write(b"abc")
    assert await reader.readexactly(3) == b"ABC"
    cut(pod.writers[-1])
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    await harness.until(lambda: harness.number("active") == 0)


async def test_reset_by_the_client_reaches_the_pod(harness, pod):
    harness.apply(harness.route([("127.0.0.1", True)], pod.port))
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    writer.write(b"abc")
    assert await reader.readexactly(3) == b"ABC"
    cut(writer)
    await harness.until(pod.writers[-1].is_closing)
    await harness.until(lambda: harness.number("active") == 0)


async def test_receiver_that_takes_nothing_is_cut_off(make_harness):
    harness = await make_harness(stall_seconds=0.3)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    harness.apply(harness.route([("127.0.0.1", True)], port))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", harness.port()))
        await harness.until(lambda: harness.number("active") == 1)
        await harness.until(lambda: harness.number("active") == 0)
    server.close()
    await server.wait_closed()


async def test_connections_beyond_the_limit_are_reset(harness, pod):
    harness.apply(harness.route([("127.0.0.1", True)], pod.port, limits={"maxConnections": 1}))
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    writer.write(b"abc")
    assert await reader.readexactly(3) == b"ABC"
    with pytest.raises(ConnectionResetError):
        await ask(harness.port())
    assert harness.number("refused") == 1
    writer.close()
