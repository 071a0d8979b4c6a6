"""An artifact store in memory: what it is asked to release, and what it says of it."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from longshore.store import ArtifactStore, Kept


class Shelf(ArtifactStore):
    """Takes the place of a registry; `kept` is what it says of all that it shall release."""

    def __init__(self, write: Callable[[str], AbstractContextManager[None]]) -> None:
        """Count what is released as a write of the operator's."""
        super().__init__(plain_http=True)
        self.kept: tuple[Kept, ...] = ()
        self._write = write

    async def release(self, artifacts: Iterable[str]) -> tuple[Kept, ...]:
        """Release nothing, and tell what stays."""
        with self._write(f"release {' '.join(artifacts)}"):
            return self.kept
