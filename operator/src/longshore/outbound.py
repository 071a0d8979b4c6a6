"""Requests to addresses that users wrote into a spec: bounded in time and size, and never to the node."""

import errno
import ipaddress
import socket
from typing import Any

import aiohttp

USER_AGENT = "longshore-operator"


class TooLargeError(ValueError):
    """The answer is larger than what is read of it."""


def open_session(timeout: float) -> aiohttp.ClientSession:
    """Give a session whose requests take at most `timeout` seconds; close it when done.

    Link-local addresses are refused when a connection is made, whatever name led there: clouds hand out the
    node's credentials at 169.254.169.254, and the operator must not fetch them for a user.
    """
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout),
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=16, socket_factory=_socket),
        headers={"User-Agent": USER_AGENT},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def read_limited(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read a body of at most `most` bytes.

    Raises:
        TooLargeError: it is longer.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise TooLargeError(f"the answer is larger than {most} bytes")
    return bytes(body)


def reason(error: BaseException) -> str:
    """Say what went wrong with a request, for a person."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, place = address
    found = ipaddress.ip_address(str(place[0]).partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or found
    if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified:
        raise PermissionError(errno.EACCES, "refused: link-local addresses belong to the node")
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made
