"""Waiting for what has no event of its own: a condition of a background task or another process."""

import asyncio
from collections.abc import Callable

MOST_SECONDS = 20.0
"""How long a condition may take on a busy machine."""

PAUSE_SECONDS = 0.005


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not within `MOST_SECONDS`.
    """
    async with asyncio.timeout(MOST_SECONDS):
        while not condition():  # noqa: ASYNC110 (what is awaited has no event)
            await asyncio.sleep(PAUSE_SECONDS)
