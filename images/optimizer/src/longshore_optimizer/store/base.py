"""What every store offers."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from longshore.artifact.manifest import Manifest

KEY_PREFIX = "key-"


@dataclass(frozen=True)
class Stored:
    """An artifact in a store: how pods refer to it, its digest, and its manifest."""

    reference: str
    sha256: str
    manifest: Manifest


class Store(Protocol):
    """Holds artifacts."""

    async def find(self, key: str) -> Stored | None:
        """Give the artifact of a key, None where there is none that is whole."""
        ...

    async def put(self, directory: Path, key: str) -> Stored:
        """Store a directory as the artifact of a key."""
        ...

    async def recall(self, key: str) -> bytes | None:
        """Give what was noted last of an artifact in the making."""
        ...

    async def note(self, key: str, data: bytes) -> None:
        """Keep a small text of an artifact in the making, in place of the one before."""
        ...


TRIALS_PREFIX = "trials-"
TRIALS_LIMIT = 16 << 20
"""Most bytes of a note that are read."""


def trials_tag_of(key: str) -> str:
    """Tag of what is noted while the artifact of a key is being made."""
    return f"{TRIALS_PREFIX}{key[:40]}"


def image_tag_of(key: str, server_image: str) -> str:
    """Tag of the image that holds a server and the artifact of a key.

    Each server has its own: a registry may clean up an image that lost its tag while pods still run it.
    """
    server = hashlib.sha256(server_image.encode()).hexdigest()
    return f"image-{key[:40]}-{server[:12]}"


def tag_of(key: str) -> str:
    """Tag of an image that holds the artifact of a key."""
    return f"{KEY_PREFIX}{key[:40]}"
