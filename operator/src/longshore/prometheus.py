"""One question to a Prometheus server: bounded in time and size; a failure is an answer that says so."""

import asyncio

import aiohttp

from longshore.outbound import TooLargeError, read_limited, reason
from longshore.plan.analysis.questions import read_prometheus
from longshore.plan.analysis.signals import Reading

TIMEOUT = 5.0
"""Seconds for one question."""

_LARGEST = 2**20
"""Bytes of an answer: one number needs a few hundred."""


async def ask(session: aiohttp.ClientSession, slots: asyncio.Semaphore, address: str, query: str) -> Reading:
    """Ask for the value of `query` now (Prometheus HTTP API v1, "Instant queries").

    Args:
        session: as `open_session(TIMEOUT)` gives it.
        slots: bounds how many questions are under way.
        address: of the server, with a path before `/api/v1` where it has one.
        query: PromQL.
    """
    url = f"{address.rstrip('/')}/api/v1/query"
    parameters = {"query": query, "timeout": f"{TIMEOUT:g}s"}
    try:
        async with slots, session.get(url, params=parameters, allow_redirects=False) as response:
            return read_prometheus(response.status, await read_limited(response, _LARGEST))
    except (aiohttp.ClientError, TimeoutError, OSError, TooLargeError, ValueError) as error:
        return Reading(error=reason(error))
