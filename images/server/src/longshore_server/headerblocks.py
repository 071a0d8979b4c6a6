"""HPACK (RFC 7541) for a server whose clients repeat themselves."""

from collections.abc import Iterable
from typing import Any

import hpack
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

_MAX_CACHED = 64
_MAX_CACHED_BYTES = 1024
Headers = dict[bytes, bytes]


class _CountingTable(HeaderTable):
    """A dynamic table that tells when it has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]


class HeaderBlocks:
    """Decodes the header blocks of one connection, in order.

    A block that changes nothing in the dynamic table means the same as long as the table stays the same, so
    its meaning is kept by its bytes until then.
    """

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: the largest decoded size that is accepted."""
        self._decoder = hpack.Decoder(max_header_list_size=max_bytes)
        self._table = _CountingTable()
        self._decoder.header_table = self._table
        self._known: dict[bytes, Any] = {}
        self._changes = 0

    def lookup(self, block: bytes) -> Any:
        """What was remembered for these bytes, if it still holds."""
        return self._known.get(block)

    def forget(self) -> None:
        """Forget what was remembered."""
        self._known.clear()

    def decode(self, block: bytes) -> Headers:
        """Decode one block. Raises `ValueError` (the connection must be closed)."""
        try:
            pairs: Iterable[Any] = self._decoder.decode(block, raw=True)
            headers: Headers = {}
            for name, value in pairs:
                headers[name] = headers[name] + b"," + value if name in headers else value
        except (HPACKError, IndexError, UnicodeDecodeError) as error:
            raise ValueError(f"header block: {error}") from None
        return headers

    def remember(self, block: bytes, meaning: Any) -> None:
        """Keep what the block just decoded means, if decoding it changed nothing."""
        if self._table.changes != self._changes:
            self._changes = self._table.changes
            self._known.clear()
        elif len(block) <= _MAX_CACHED_BYTES:
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[block] = meaning
