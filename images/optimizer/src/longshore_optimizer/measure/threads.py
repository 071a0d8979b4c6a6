"""How many threads a model is timed with: as many as the server would give it.

The server spreads the requests for small models over processes of one thread each
(`longshore_server.sizing`); a test holds the two rules together. What is made of a model that gets all
threads is compared with it, and keeps them unless one thread is faster: a candidate that became small must
not lose by that what it had gained. The manifest tells the server so.
"""

from collections.abc import Callable
from dataclasses import dataclass

SMALL_RUN_SECONDS = 0.005
"""A model that one thread runs in less is small."""

LEAST_GAIN = 1.3
"""How much faster all threads must be than one, to be worth more than a process for each processor."""

KEEPING_GAIN = 1.0
"""The same for what was made of a model that gets all threads."""

LARGE_BYTES = 512 << 20
"""Models of so many bytes are held once, whatever their speed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thread for what it runs in less than `small_seconds`, and where all threads are not `least_gain`
    times as fast."""

    small_seconds: float
    least_gain: float


def rule(original: int = 1) -> Rule:
    """Give the rule for an original, or for what was made of one that got so many threads."""
    return Rule(SMALL_RUN_SECONDS, LEAST_GAIN) if original == 1 else Rule(0.0, KEEPING_GAIN)


def served(available: int, size: int, run: Callable[[int], float], by: Rule) -> int:
    """Give 1 or `available`; `run` gives the seconds of one run with so many threads, `size` is in bytes.

    `run` should give the least of several: a processor that the host takes away slows threads that wait for
    each other more than it slows one.
    """
    if available == 1 or size >= LARGE_BYTES:
        return available
    one = run(1)
    if one < by.small_seconds:
        return 1
    if run(available) * by.least_gain <= one:
        return available
    # The candidates of one original are compared: none may lose its threads to one busy moment.
    return available if run(available) * by.least_gain <= one else 1
