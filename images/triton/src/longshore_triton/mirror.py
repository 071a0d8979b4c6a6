"""Sends copies of answered requests to another revision, while the operator asks for it, and compares.

Triton's own tracing tells what was asked and answered, a few requests at a time, switched on and off at a
running server; so nothing stands in the way of a request, and only those few take longer, by the time in
which Triton writes their text. That (longshore_triton/traced.py) is read and removed at once. With the lease
the tracing ends by itself.
"""

import http.client
import json
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from longshore_triton.log import Log

MOST_SECONDS = 60.0
"""Longest lease; the operator's is shorter."""

_MOST_TOLERANCE = 1e6
_LONGEST_NAME = 253

_ROUND_SECONDS = 0.5
_MOST_A_ROUND = 8
"""Requests that are traced in one round; the first round traces one, to see how large they are."""

_LARGEST_TRACE = 24 << 20
"""Bytes of text that Triton may write of one request; 8 MiB of floats are as many."""

_LARGEST_ROUND = 32 << 20
_REST_SECONDS = 30.0
"""How long nothing is traced after a request that was too large."""

SHARE = 0.05
"""The most of a core's time that copying and comparing may take, what Triton writes included."""

_TELL_AGAIN = 30.0
_CONTROL_SECONDS = 2.0


class RefusedError(Exception):
    """A lease that cannot be given, with the reason."""


@dataclass(frozen=True)
class Lease:
    """What is asked for: copies of a `share` of the requests, until the moment `end` (`time.monotonic`)."""

    share: float = 0.0
    tolerance: float = 0.0
    end: float = 0.0

    @property
    def holds(self) -> bool:
        """Tell whether copies are wanted now."""
        return self.share > 0 and time.monotonic() < self.end


@dataclass
class Counters:
    """What became of copies, since the start."""

    compared: int = 0
    differing: int = 0
    failed: int = 0
    dropped: int = 0


def parse(body: bytes) -> Lease:
    """Read `{"share": 1, "seconds": 15, "tolerance": 0.01, "revision": "..."}`.

    Raises:
        RefusedError: it is something else.
    """
    try:
        document = json.loads(body)
        share, seconds = _number(document, "share", 1.0), _number(document, "seconds", MOST_SECONDS)
        return Lease(share, _number(document, "tolerance", _MOST_TOLERANCE), time.monotonic() + seconds)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"the body is no lease: {error}") from None


def _number(document: dict[str, object], name: str, most: float) -> float:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name!r} must be a number")
    if not 0 <= value <= most:
        raise ValueError(f"{name!r} must be between 0 and {most:g}")
    return float(value)


@dataclass(frozen=True)
class Target:
    """Who answers copies: a host, its HTTP port, the model's name, and the key that its pods know."""

    host: str
    port: int
    model: str
    key: str
    seconds: float = 5.0
    """The most that one copy may take."""


class Tracing:
    """Triton's tracing of one model: `count` requests from now on, each in a file of its own."""

    def __init__(self, port: int, secret: str, model: str, directory: Path) -> None:
        """Prepare; `secret` opens the API, `directory` is where the server was told to write (`flags`)."""
        self._port = port
        self._secret = secret
        self._model = model
        self._directory = directory

    def begin(self, count: int, share: float) -> None:
        """Trace `count` requests, one of `1 / share`. Raises OSError or HTTPException."""
        rate = max(1, round(1 / share))
        levels = ["TENSORS"]
        self._set(
            {"trace_level": levels, "trace_rate": str(rate), "trace_count": str(count), "log_frequency": "1"}
        )

    def end(self) -> None:
        """Trace nothing more. Raises OSError or HTTPException."""
        self._set({"trace_level": ["OFF"]})

    def written(self) -> list[Path]:
        """Give the files that stand there, oldest first."""
        try:
            found = [(file.stat().st_mtime_ns, file) for file in self._directory.iterdir()]
        except OSError:
            return []
        return [file for _, file in sorted(found)]

    def _set(self, settings: dict[str, object]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_CONTROL_SECONDS)
        try:
            headers = {"longshore": self._secret, "Content-Type": "application/json"}
            path = f"/v2/models/{self._model}/trace/setting"
            connection.request("POST", path, json.dumps(settings), headers)
            answer = connection.getresponse()
            text = answer.read(4096)
            if answer.status != http.client.OK:
                raise OSError(
                    f"Triton's tracing answers HTTP {answer.status}: {text.decode(errors='replace')}"
                )
        finally:
            connection.close()


class Mirror:
    """The mirror of one server: a thread that works while there is a lease."""

    def __init__(self, tracing: Tracing, target: Target, log: Log) -> None:
        """Nothing is sent while nobody asks for it; failures are logged now and then."""
        self._tracing = tracing
        self._target = target
        self.batched = False
        """Whether the first dimension counts rows that are independent of each other."""
        self._log = log
        self._lease = Lease()
        self._counters = Counters()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._told = -_TELL_AGAIN
        self._many = 1

    def grant(self, body: bytes) -> str:
        """Begin, go on with, or end copying; gives the counters as Prometheus text.

        Raises:
            RefusedError: no lease can be read, or nothing can be compared here.
        """
        lease = parse(body)
        try:
            import numpy  # noqa: F401 (an extra of this package, and slow to load)
        except ImportError:
            raise RefusedError("this image has no NumPy: install longshore-triton[measure]") from None
        self._lease = lease
        if lease.holds and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
            self._thread.start()
        self._wake.set()
        return self.metrics()

    def metrics(self) -> str:
        """Give the counters in Prometheus's text format."""
        counters = self._counters
        values = {
            "longshore_mirror_share": self._lease.share if self._lease.holds else 0.0,
            "longshore_mirror_compared_total": counters.compared,
            "longshore_mirror_differing_total": counters.differing,
            "longshore_mirror_failed_total": counters.failed,
            "longshore_mirror_dropped_total": counters.dropped,
        }
        return "".join(f"{name} {value}\n" for name, value in values.items())

    def _run(self) -> None:
        while True:
            if not self._lease.holds:
                self._stop()
                self._wake.wait()
                self._wake.clear()
                continue
            began, rest = time.thread_time(), 0.0
            try:
                if self._round() > _LARGEST_TRACE:
                    rest = _REST_SECONDS
            except Exception as error:  # noqa: BLE001 (whatever fails here must not end the copying for good)
                self._tell(f"requests could not be copied: {error!r}")
                rest = _ROUND_SECONDS
            # Triton takes about as long to write a trace as it takes here to read it.
            spent = 2 * (time.thread_time() - began) / SHARE
            time.sleep(min(max(spent, rest), MOST_SECONDS))

    def _stop(self) -> None:
        try:
            self._tracing.end()
        except (OSError, http.client.HTTPException) as error:
            self._tell(f"tracing could not be ended: {error}")
        for file in self._tracing.written():
            file.unlink(missing_ok=True)

    def _round(self) -> int:
        """Trace a few requests and send copies of them; gives the size of the largest in bytes."""
        lease, largest = self._lease, 0
        self._tracing.begin(self._many, lease.share)
        end, left = time.monotonic() + _ROUND_SECONDS, self._many
        while left and time.monotonic() < end:
            time.sleep(0.02)
            for file in self._tracing.written():
                size = file.stat().st_size
                text = file.read_bytes() if size <= _LARGEST_TRACE else b""
                if size <= _LARGEST_TRACE and not text.endswith(b"]"):
                    continue  # Triton still writes it
                file.unlink(missing_ok=True)
                largest, left = max(largest, size), left - 1
                self._copy(text, lease.tolerance)
        self._many = max(1, min(_MOST_A_ROUND, 2 * self._many, _LARGEST_ROUND // max(largest, 1)))
        return largest

    def _copy(self, text: bytes, tolerance: float) -> None:
        from longshore_triton import copies, traced

        try:
            if not text:
                raise traced.UnreadableError(f"it has more than {_LARGEST_TRACE >> 20} MiB as text")
            request = traced.parse(text)
        except traced.UnreadableError as error:
            self._counters.dropped += 1
            self._tell(f"a request is not copied: {error}")
            return
        try:
            answer = copies.ask(self._target, request.inputs)
        except copies.BadAnswerError as error:
            self._counters.failed += 1
            self._tell(f"a copy was not answered by {self._target.host}:{self._target.port}: {error}")
            return
        if not copies.same(request.outputs, answer, self.batched, max(tolerance, traced.ROUNDED)):
            self._counters.differing += 1
        self._counters.compared += 1

    def _tell(self, what: str) -> None:
        """Log what fails, now and then."""
        now = time.monotonic()
        if now - self._told >= _TELL_AGAIN:
            self._told = now
            self._log.say("warning", what)
