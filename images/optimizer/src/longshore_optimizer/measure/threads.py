"""How many threads a model is timed with: as many as the server would give it.

The server spreads the requests for small models over processes of one thread each
(`longshore_server.sizing`); a test holds the two rules together.
"""

from collections.abc import Callable

SMALL_RUN_SECONDS = 0.005
"""A model that one thread runs in less is small."""

LEAST_GAIN = 1.3
"""How much faster all threads must be than one, to be worth more than a process for each processor."""

LARGE_BYTES = 512 << 20
"""Models of so many bytes are held once, whatever their speed."""


def served(available: int, size: int, run: Callable[[int], float]) -> int:
    """Give 1 or `available`; `run` gives the seconds of one run with so many threads, `size` is in bytes."""
    if available == 1 or size >= LARGE_BYTES:
        return available
    one = run(1)
    if one < SMALL_RUN_SECONDS or run(available) * LEAST_GAIN > one:
        return 1
    return available
