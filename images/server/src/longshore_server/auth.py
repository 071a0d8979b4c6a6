"""API keys from a mounted file, one a line; compared in constant time, read again when the file changes."""

import hashlib
import hmac
import logging
from pathlib import Path

from longshore_server.config import read_file
from longshore_server.errors import ExitCode, StartupError
from longshore_server.httphead import RequestHead

_log = logging.getLogger(__name__)
_FLAG = "--api-key-file"


class ApiKeys:
    """The accepted keys.

    Only their digests are kept, so comparisons take the same time for keys of any length.
    """

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises `StartupError` when it is missing or holds no key."""
        self._path = path
        self._seen = b""
        self._digests: tuple[bytes, ...] = ()
        self._take(read_file(path, _FLAG))
        if not self._digests:
            raise StartupError(
                ExitCode.BAD_CONFIGURATION, f"{path} of {_FLAG} holds no key: write one a line"
            )

    def accept(self, head: RequestHead) -> bool:
        """Whether the request carries one of the keys."""
        scheme, _, token = head.header(b"authorization").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else head.header(b"x-api-key")
        return self.accept_key(key)

    def accept_key(self, key: str) -> bool:
        """Whether `key` is one of the keys."""
        digest = _digest(key.encode())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return bool(key) and any(matches)

    def reload(self) -> bool:
        """Read the file again; returns whether the keys changed.

        A missing or empty file keeps the known keys.
        """
        try:
            content = self._path.read_bytes()
        except OSError as error:
            _log.warning("cannot read %s again: %s; the known keys stay", self._path, error.strerror)
            return False
        if content == self._seen:
            return False
        if not content.strip():
            _log.warning("%s holds no key any more; the known keys stay", self._path)
            return False
        self._take(content)
        _log.info("%s changed: %d keys are accepted", self._path, len(self._digests))
        return True

    def _take(self, content: bytes) -> None:
        self._seen = content
        self._digests = tuple(
            _digest(line.strip())
            for line in content.splitlines()
            if line.strip() and not line.lstrip().startswith(b"#")
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
