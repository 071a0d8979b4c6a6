"""Artifacts as prefixes in an object store, one a key; the manifest goes last and marks them whole."""

import asyncio
from pathlib import Path

from longshore.artifact.manifest import MANIFEST_NAME, Manifest
from pydantic import ValidationError

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import credentials
from longshore_optimizer.fetch.objectstore import open_store, store_problem
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.uri import Uri
from longshore_optimizer.store.base import Stored, tag_of, trials_tag_of


def _files(directory: Path) -> list[Path]:
    """Every file, the manifest last."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return sorted(files, key=lambda p: p.name == MANIFEST_NAME)


class BucketStore:
    """A prefix of a bucket."""

    def __init__(self, uri: Uri, settings: FetchSettings) -> None:
        """Keep artifacts under the uri's prefix."""
        self._uri = uri
        self._store = open_store(uri, settings, credentials.load(settings.credentials))
        self._prefix = uri.path.strip("/")

    async def find(self, key: str) -> Stored | None:
        """Give the prefix of the key if it holds a readable manifest."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            result = await obstore.get_async(self._store, self._path(key, MANIFEST_NAME))
            data = bytes(await result.bytes_async())
            manifest = Manifest.model_validate_json(data)
        except (FileNotFoundError, ValidationError):
            return None
        except (BaseError, PermissionError) as error:
            raise store_problem(error, self._uri.text) from error
        return self._stored(key, manifest)

    async def put(self, directory: Path, key: str) -> Stored:
        """Upload every file, the manifest last."""
        import obstore
        from obstore.exceptions import BaseError

        files = await asyncio.to_thread(_files, directory)
        manifest = Manifest.model_validate_json((directory / MANIFEST_NAME).read_text())
        try:
            for path in files:
                await obstore.put_async(
                    self._store, self._path(key, path.relative_to(directory).as_posix()), path
                )
        except (BaseError, OSError) as error:
            problem = store_problem(error, self._uri.text)
            if problem.reason is Reason.FETCH_FAILED:
                problem = Problem(
                    Reason.STORE_FAILED,
                    problem.message.replace("cannot read", "cannot write"),
                    retryable=True,
                )
            raise problem from error
        return self._stored(key, manifest)

    async def recall(self, key: str) -> bytes | None:
        """Read the note beside the artifacts."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            result = await obstore.get_async(self._store, self._note_path(key))
            return bytes(await result.bytes_async())
        except FileNotFoundError:
            return None
        except (BaseError, PermissionError) as error:
            raise store_problem(error, self._uri.text) from error

    async def note(self, key: str, data: bytes) -> None:
        """Write the note."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            await obstore.put_async(self._store, self._note_path(key), data)
        except (BaseError, OSError) as error:
            raise store_problem(error, self._uri.text) from error

    def _note_path(self, key: str) -> str:
        return "/".join(p for p in (self._prefix, f"{trials_tag_of(key)}.json") if p)

    def _path(self, key: str, name: str) -> str:
        return "/".join(p for p in (self._prefix, tag_of(key), name) if p)

    def _stored(self, key: str, manifest: Manifest) -> Stored:
        prefix = self._path(key, "").rstrip("/")
        return Stored(f"{self._uri.scheme}://{self._uri.host}/{prefix}", manifest.output.sha256, manifest)
