"""Writes a stream to disk under a size bound, hashing as it goes."""

import errno
import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from longshore_optimizer.errors import Problem, Reason


def disk_problem(error: OSError, what: str) -> Problem:
    """Turn a write error into a sentence; a full disk has a reason of its own."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(
            Reason.DISK_FULL,
            f"no space left while writing {what}: give the Job more ephemeral storage or free the disk",
        )
    return Problem(
        Reason.STORE_FAILED,
        f"cannot write {what} ({error.strerror or error}): check the disk and who may write there",
        retryable=True,
    )


def too_large(what: str, limit: int) -> Problem:
    """Build the refusal of something over the size bound."""
    return Problem(
        Reason.TOO_LARGE,
        f"{what} is larger than the limit of {limit} bytes: raise LONGSHORE_MAX_FETCH_BYTES or use a "
        "smaller model",
    )


class Sink:
    """A file being written: `write` checks the bound and feeds SHA-256."""

    def __init__(self, path: Path, limit: int, what: str) -> None:
        """Open `path` for writing; `limit` in bytes, `what` names the source in messages."""
        self.path = path
        self.size = 0
        self._limit = limit
        self._what = what
        self._hash = hashlib.sha256()
        self._file: BinaryIO = path.open("wb")

    def write(self, chunk: bytes) -> None:
        """Append bytes; raises Problem TooLarge or DiskFull."""
        if self.size + len(chunk) > self._limit:
            raise too_large(self._what, self._limit)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise disk_problem(error, self._what) from error
        self._hash.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Forget what was written: the source cannot resume."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """Digest of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def __enter__(self) -> Self:
        """Give the sink itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as close_error:
            if error is None:
                raise disk_problem(close_error, self._what) from close_error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(root: Path) -> str:
    """SHA-256 over a directory: of the lines `digest  relative/name` in name order, as sha256sum writes
    them."""
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{file_sha256(path)}  {path.relative_to(root).as_posix()}\n".encode())
    return digest.hexdigest()
