"""Artifacts as directories on a volume or the local disk, one a key; a rename makes them visible."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from longshore.artifact.manifest import MANIFEST_NAME, Manifest
from pydantic import ValidationError

from longshore_optimizer.fetch.sink import disk_problem, tree_sha256
from longshore_optimizer.store.base import TRIALS_LIMIT, Stored, tag_of, trials_tag_of


class DirectoryStore:
    """A folder of artifacts."""

    def __init__(self, root: Path, uri: str) -> None:
        """Keep artifacts under `root`, which pods know as `uri`."""
        self._root = root
        self._uri = uri.rstrip("/")

    async def find(self, key: str) -> Stored | None:
        """Give the directory of the key if it holds a readable manifest."""
        return await asyncio.to_thread(self._find, key)

    async def put(self, directory: Path, key: str) -> Stored:
        """Copy the artifact; whoever comes first wins, as both are the same."""
        return await asyncio.to_thread(self._put, directory, key)

    async def recall(self, key: str) -> bytes | None:
        """Read the note beside the artifacts."""
        return await asyncio.to_thread(self._recall, key)

    async def note(self, key: str, data: bytes) -> None:
        """Write the note; a rename replaces the one before."""
        await asyncio.to_thread(self._note, key, data)

    def _recall(self, key: str) -> bytes | None:
        try:
            with (self._root / f"{trials_tag_of(key)}.json").open("rb") as file:
                return file.read(TRIALS_LIMIT)
        except FileNotFoundError:
            return None

    def _note(self, key: str, data: bytes) -> None:
        target = self._root / f"{trials_tag_of(key)}.json"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix=".incoming-", dir=self._root, delete=False) as file:
                file.write(data)
            os.replace(file.name, target)
        except OSError as error:
            raise disk_problem(error, f"the measured candidates in {target}") from error

    def _find(self, key: str) -> Stored | None:
        path = self._root / tag_of(key)
        try:
            manifest = Manifest.model_validate_json((path / MANIFEST_NAME).read_text())
        except (OSError, ValidationError):
            return None
        return Stored(f"{self._uri}/{tag_of(key)}", tree_sha256(path), manifest)

    def _put(self, directory: Path, key: str) -> Stored:
        target = self._root / tag_of(key)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self._root))
            try:
                shutil.copytree(directory, staging, dirs_exist_ok=True)
                staging.chmod(0o755)
                if target.exists() and self._find(key) is None:
                    shutil.rmtree(target)
                if not target.exists():
                    os.rename(staging, target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise disk_problem(error, f"the artifact in {target}") from error
        stored = self._find(key)
        if stored is None:
            raise disk_problem(OSError("the artifact vanished"), f"the artifact in {target}")
        return stored
