"""Makes Triton's HTTP server say `Connection: close`, by images/triton/preload/close_connections.c.

Triton cannot by itself: while it ends, a client that keeps a connection busy is answered until the exit
timeout, and then loses a request.
"""

import mmap
import os
from collections.abc import Mapping
from pathlib import Path

from longshore_triton.log import Log

LIBRARY = Path("preload") / "close_connections.so"
_PRELOAD = "LD_PRELOAD"
_VARIABLE = "LONGSHORE_DRAIN_FD"
_SIZE = mmap.PAGESIZE


class Closing:
    """A byte that the server's process sees: once set, each of its answers over HTTP/1.1 is the last."""

    def __init__(self, home: Path, log: Log) -> None:
        """Prepare; `home` is where Triton is installed. Without the library there it serves all the same."""
        library = home / LIBRARY
        self._library = library if library.is_file() else None
        if not self._library:
            log.say("warning", f"there is no {library}: clients that stay connected may lose a request")
        self._file = os.memfd_create("longshore-drain")
        os.ftruncate(self._file, _SIZE)
        self._page = mmap.mmap(self._file, _SIZE)

    @property
    def files(self) -> tuple[int, ...]:
        """What the server's process must inherit."""
        return (self._file,)

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Give the environment that the server needs for it."""
        if not self._library:
            return dict(environment)
        before = environment.get(_PRELOAD)
        libraries = f"{self._library}:{before}" if before else str(self._library)
        return {**environment, _PRELOAD: libraries, _VARIABLE: str(self._file)}

    def set(self) -> None:
        """Let every answer from now on be the last of its connection."""
        self._page[0] = 1
