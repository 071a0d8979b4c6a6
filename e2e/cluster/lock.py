"""A lock between processes, held on an open file: a killed holder releases it by dying."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.errors import ClusterError


@contextmanager
def exclusive(path: Path, *, what: str, seconds: float, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `path` exclusively; wait up to `seconds`, and say so once when there is someone to wait for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        opened = path.open("a")
    except PermissionError:
        raise ClusterError(f"{what}: {path} belongs to another user.\n  next step: run as root") from None
    with opened as file:
        begun = time.monotonic()
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - begun >= seconds:
                    raise ClusterError(
                        f"{what}: another process has held {path} for {seconds:.0f} s.\n"
                        f"  next step: see who it is with `fuser -v {path}`, wait for it or end it"
                    ) from None
                if not told:
                    say(f"another process is at work ({what}): waiting for it")
                    told = True
                time.sleep(0.2)
        yield
