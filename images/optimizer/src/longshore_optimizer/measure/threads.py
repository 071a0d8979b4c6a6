"""How many threads a model is timed with: as many as the server would give it.

The server spreads the requests for small models over processes of one thread each
(`longshore_server.sizing`); a test holds the two rules together. What is made of a model that gets all
threads keeps them while it gains by them, however small it becomes: else the fastest candidates would lose
what they gain as soon as they count as small. The manifest tells the server so.
"""

from collections.abc import Callable

SMALL_RUN_SECONDS = 0.005
"""A model that one thread runs in less is small."""

LEAST_GAIN = 1.3
"""How much faster all threads must be than one, to be worth more than a process for each processor."""

LARGE_BYTES = 512 << 20
"""Models of so many bytes are held once, whatever their speed."""


def border(original: int) -> float:
    """Seconds under which a candidate is small, where the original gets so many threads."""
    return SMALL_RUN_SECONDS if original == 1 else 0.0


def served(available: int, size: int, run: Callable[[int], float], small: float) -> int:
    """Give 1 or `available`; `run` gives the seconds of one run with so many threads, `size` is in bytes,
    and a model that one thread runs in less than `small` seconds is small.

    `run` should give the least of several: a processor that the host takes away slows threads that wait for
    each other more than it slows one.
    """
    if available == 1 or size >= LARGE_BYTES:
        return available
    one = run(1)
    if one < small:
        return 1
    if run(available) * LEAST_GAIN <= one:
        return available
    # The candidates of one original are compared: none may lose its threads to one busy moment.
    return available if run(available) * LEAST_GAIN <= one else 1
