"""Logs on standard error: one JSON object a line."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from longshore_server.errors import StartupError

_TERMINATION_LIMIT = 4096  # bytes a kubelet keeps of a termination message


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        document.update(getattr(record, "fields", {}))
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(document, default=str).decode()


def configure(level: str) -> None:
    """Send everything from `level` on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def report_startup_failure(error: StartupError, termination_log: Path) -> None:
    """Say in one line why the server cannot start: on standard error, and where the kubelet reads it."""
    line = f"longshore-server: {error}"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
    try:
        # Not created where it is missing: outside a pod nobody would read it.
        if termination_log.exists():
            with termination_log.open("w") as file:
                file.write(line[:_TERMINATION_LIMIT])
    except OSError:
        pass
