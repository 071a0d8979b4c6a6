"""For how long, and of how many requests, a server sends copies to another revision.

The operator asks for it again and again; when it is gone, the mirroring ends by itself. Whom the copies go to
is a setting of the server, never a part of what is asked for.
"""

import math
import mmap
import time
import zlib
from dataclasses import dataclass

import orjson

from longshore_server.errors import bad_request
from longshore_server.httphead import Body

MOST_SECONDS = 60.0
"""Longest lease; the operator's is shorter."""

LARGEST_REQUEST = 1024
"""Bytes of a request for a lease."""

_MOST_TOLERANCE = 1e6
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes:
        share: of the requests that are answered, above 0 to 1.
        seconds: how long it holds, 0 to `MOST_SECONDS`; 0 ends it.
        tolerance: relative distance of numbers that counts as the same.
        revision: name of what answers the copies; with another one, connections begin anew.
    """

    share: float
    seconds: float
    tolerance: float
    revision: str


def parse(body: Body) -> Wanted:
    """Read `{"share": 1, "seconds": 15, "tolerance": 0.01, "revision": "..."}`. Raises `RequestError`."""
    if len(body) > LARGEST_REQUEST:
        raise bad_request(f"a lease is asked for with at most {LARGEST_REQUEST} bytes")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise bad_request("the body must be a JSON object")
    revision = document.get("revision", "")
    if not isinstance(revision, str) or len(revision) > _LONGEST_NAME:
        raise bad_request(f"'revision' must be a name of at most {_LONGEST_NAME} characters")
    return Wanted(
        share=_number(document, "share", 1.0),
        seconds=_number(document, "seconds", MOST_SECONDS),
        tolerance=_number(document, "tolerance", _MOST_TOLERANCE),
        revision=revision,
    )


class Lease:
    """What was asked for last, in memory that all workers share; made before they are forked.

    Whichever worker is asked writes it for all: the clock is the machine's, `time.monotonic`.
    """

    def __init__(self) -> None:
        """Nothing is asked for yet."""
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self._values: memoryview[float] = memoryview(self._map).cast("d")

    def grant(self, wanted: Wanted) -> None:
        """Begin, go on with, or end mirroring."""
        values = self._values
        values[1] = wanted.share
        values[2] = wanted.tolerance
        values[3] = zlib.crc32(wanted.revision.encode())
        values[0] = time.monotonic() + wanted.seconds if wanted.seconds and wanted.share else 0.0

    @property
    def share(self) -> float:
        """Share of the requests to copy at this moment; 0 without a lease."""
        values = self._values
        return values[1] if values[0] > time.monotonic() else 0.0

    @property
    def tolerance(self) -> float:
        """Relative distance of numbers that counts as the same."""
        return self._values[2]

    @property
    def peer(self) -> int:
        """A number that stands for the revision that answers the copies."""
        return int(self._values[3])


def _number(document: dict[str, object], name: str, most: float) -> float:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad_request(f"{name!r} must be a number")
    if not 0 <= value <= most:
        raise bad_request(f"{name!r} must be between 0 and {most:g}")
    return float(value)
