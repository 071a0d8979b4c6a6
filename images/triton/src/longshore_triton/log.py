"""Triton's log lines as JSON, and the last of them for the message that outlives the container."""

import json
import re
import sys
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TextIO

_LINE = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (?P<level>[IWEF]) \d+ (?P<source>[^ ]+)\] (?P<text>.*)$"
)
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
_MOST_CHARACTERS = 1500
_TABLE = ("+", "|")
_HARMLESS = ("CudaDriverHelper has not been initialized",)
"""What Triton says at level error on every machine without a GPU."""


class Log:
    """Writes one JSON object a line, and keeps the last lines that tell of trouble."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._trouble: deque[str] = deque(maxlen=30)

    def say(self, level: str, message: str) -> None:
        """Write a line of our own."""
        self._write(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), level, "longshore-triton", message)

    def pass_on(self, line: str) -> None:
        """Write a line of Triton's, or of a model's own Python code."""
        line = line.rstrip("\n")
        if not line.strip() or line.startswith(_TABLE):
            return
        found = _LINE.match(line)
        if found is None:
            self._trouble.append(line)
            self._write(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "info", "tritonserver", line)
            return
        level, text = _LEVELS[found["level"]], found["text"].strip('"')
        if level in ("error", "fatal") and not text.startswith(_HARMLESS):
            self._trouble.append(text.rstrip("; "))
        self._write(found["time"], level, found["source"], text)

    def last_trouble(self) -> str:
        """Give the last lines that tell of trouble, joined, in at most some 1,500 characters."""
        return "; ".join(_last(self._trouble))

    def _write(self, time: str, level: str, source: str, message: str) -> None:
        entry = {"time": time, "level": level, "source": source, "message": message[:8192]}
        self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._stream.flush()


def _last(lines: Iterable[str]) -> list[str]:
    kept: list[str] = []
    room = _MOST_CHARACTERS
    for line in reversed(list(dict.fromkeys(lines))[-5:]):
        if room <= 0:
            break
        kept.append(line[:room])
        room -= len(line)
    return kept[::-1]
