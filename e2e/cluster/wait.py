"""Waiting with a deadline: a failure names the component, its last log lines and the next step."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from e2e.cluster.errors import ClusterError

Result = TypeVar("Result")

_LOG_LINES = 12
_LOG_BYTES = 64 * 1024
_LINE_CHARACTERS = 600


def last_lines(log: Path, count: int = _LOG_LINES) -> str:
    """The last `count` lines of a log file, indented; an empty or missing log says so."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "    (no log)"
    return "\n".join(f"    {_shortened(line)}" for line in lines[-count:]) or "    (the log is empty)"


def _shortened(line: str) -> str:
    """A long line's beginning and end: the cause stands in one of them."""
    half = _LINE_CHARACTERS // 2
    return line if len(line) <= _LINE_CHARACTERS else f"{line[:half]} ... {line[-half:]}"


def wait_for(
    what: str,
    probe: Callable[[], Result | None],
    *,
    seconds: float,
    next_step: str,
    log: Path | None = None,
    alive: Callable[[], bool] | None = None,
    interval: float = 0.05,
) -> Result:
    """Call `probe` until it returns something truthy, and return that.

    `alive` is asked before every try: once it says no, waiting longer cannot help. Raises ClusterError
    with the last lines of `log` and `next_step` when the deadline (`seconds`) has passed or `alive` is
    false.
    """
    begun = time.monotonic()
    while True:
        dead = alive is not None and not alive()
        result = None if dead else probe()
        if result:
            return result
        waited = time.monotonic() - begun
        if dead or waited >= seconds:
            cause = f"stopped {waited:.1f} s after its start" if dead else f"not ready after {waited:.0f} s"
            tail = f"\n  last lines of {log}:\n{last_lines(log)}" if log else ""
            raise ClusterError(f"{what}: {cause}.{tail}\n  next step: {next_step}")
        time.sleep(min(interval, max(0.0, seconds - waited)))
