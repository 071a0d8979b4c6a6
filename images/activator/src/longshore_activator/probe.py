"""Whether a pod answers: dialled again and again, a few milliseconds apart, until it does."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from longshore_activator.config import Readiness, ReadinessMode

_ANSWER_TIMEOUT = 1.0


@dataclass(frozen=True)
class Pace:
    """How eagerly a pod is dialled, by how long it has been tried. Seconds."""

    until: float
    interval: float
    timeout: float


PACES = (
    # A packet to an address that does not exist yet waits for ARP and is sent again only after 1 s, so
    # short attempts overlap instead of one long attempt being awaited.
    Pace(until=15.0, interval=0.005, timeout=0.05),
    Pace(until=60.0, interval=0.05, timeout=0.5),
    Pace(until=float("inf"), interval=0.5, timeout=1.0),
)
_MAX_OUTSTANDING = 12


def family_of(address: str) -> socket.AddressFamily:
    """Give the address family of an IP address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


async def answers(address: str, port: int, readiness: Readiness, connect_timeout: float) -> bool:
    """Connect once and ask; False on any failure, never an exception."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(family_of(address), socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(connect_timeout):
            await loop.sock_connect(sock, (address, port))
        if readiness.mode is ReadinessMode.TCP:
            return True
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            return await _ask(sock, address, port, readiness)
    except (OSError, TimeoutError, ssl.SSLError):
        return False
    finally:
        sock.close()


async def _ask(sock: socket.socket, address: str, port: int, readiness: Readiness) -> bool:
    host = f"[{address}]" if ":" in address else address
    request = (
        f"GET {readiness.path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        "User-Agent: longshore-activator\r\nConnection: close\r\n\r\n"
    ).encode("ascii")
    if readiness.mode is ReadinessMode.HTTP:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, request)
        answer = b""
        while b"\n" not in answer and len(answer) < 1024:
            more = await loop.sock_recv(sock, 1024)
            if not more:
                break
            answer += more
        return _is_success(answer)
    # As the kubelet does for HTTPS probes, the certificate is not verified: nothing secret is sent.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(sock=sock.dup(), ssl=context, server_hostname="")
    try:
        writer.write(request)
        await writer.drain()
        return _is_success(await reader.readline())
    except ValueError:
        return False  # a line beyond the reader's limit is no status line
    finally:
        writer.transport.abort()


def _is_success(answer: bytes) -> bool:
    parts = answer.split(b" ", 2)
    return len(parts) >= 2 and parts[0].startswith(b"HTTP/") and parts[1][:3] == b"200"


async def until_ready(address: str, port: int, readiness: Readiness, wanted: Callable[[], bool]) -> bool:
    """Dial until the pod answers as ready; False as soon as `wanted()` is no longer true."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    attempts: set[asyncio.Task[bool]] = set()
    try:
        while wanted():
            pace = next(p for p in PACES if loop.time() - begun < p.until)
            if len(attempts) < _MAX_OUTSTANDING:
                attempts.add(asyncio.create_task(answers(address, port, readiness, pace.timeout)))
            # Wait the whole interval unless one succeeds: a refused connection fails in microseconds.
            next_at = loop.time() + pace.interval
            while attempts and (left := next_at - loop.time()) > 0:
                done, attempts = await asyncio.wait(
                    attempts, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if any(task.result() for task in done):
                    return True
            if (left := next_at - loop.time()) > 0:
                await asyncio.sleep(left)
        return False
    finally:
        for task in attempts:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*attempts, return_exceptions=True)
