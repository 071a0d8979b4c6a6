"""What clients ask and are answered, as Triton's own tracing tells it: a few requests at a time.

It is switched on while somebody wants to know, at a running server; so nothing stands in the way of a
request, and only those few take longer, by the time in which Triton writes their text
(longshore_triton/traced.py), which is read and removed at once.
"""

import http.client
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from longshore_triton.log import Log

if TYPE_CHECKING:
    from longshore_triton.traced import Traced

_ROUND_SECONDS = 0.5
_LOOK_SECONDS = 0.02
_PATIENT_ROUND_SECONDS = 10.0
_PATIENT_LOOK_SECONDS = 0.5
"""How long one round takes at most, and between looks: where somebody waits for many requests, and else."""

_MOST_A_ROUND = 8
"""Requests that are traced in one round; the first round traces one, to see how large they are."""

_LARGEST_TRACE = 24 << 20
"""Bytes of text that Triton may write of one request; 8 MiB of floats are as many."""

_LARGEST_ROUND = 32 << 20
_REST_SECONDS = 30.0
"""How long nothing is traced after a request that was too large."""

SHARE = 0.05
"""The most of a core's time that all this may take, what Triton writes included."""

_TELL_AGAIN = 30.0
_CONTROL_SECONDS = 2.0


class Reader(Protocol):
    """Who wants to know of requests. All methods are called by the thread of `Watch`."""

    def wants(self) -> float:
        """Give the share of the requests that is wanted now, 0 to 1."""
        ...

    @property
    def eager(self) -> bool:
        """Tell whether many are wanted soon; else one now and then is enough."""
        ...

    def take(self, request: "Traced", share: float) -> None:
        """Take in one of the requests, of which `share` were traced."""
        ...

    def drop(self) -> None:
        """Hear that a request could not be read."""
        ...


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


class Watch:
    """A thread that traces requests while a reader wants them."""

    def __init__(self, tracing: Tracing, log: Log, told: threading.Event) -> None:
        """Nothing is traced before `start`, nor after `told`; failures are logged now and then."""
        self._tracing = tracing
        self._log = log
        self._ended = told
        self._readers: Sequence[Reader] = ()
        self._wake = threading.Event()
        self._told = -_TELL_AGAIN
        self._many = 1

    def start(self, *readers: Reader) -> None:
        """Begin; a second time changes nothing."""
        if self._readers:
            return
        self._readers = readers
        threading.Thread(target=self._run, name="tracing", daemon=True).start()

    def wake(self) -> None:
        """Ask the readers at once what they want."""
        self._wake.set()

    def tell(self, what: str) -> None:
        """Log what fails, now and then."""
        now = time.monotonic()
        if now - self._told >= _TELL_AGAIN:
            self._told = now
            self._log.say("warning", what)

    def _run(self) -> None:
        tracing = False
        while not self._ended.is_set():
            if not any(reader.wants() for reader in self._readers):
                if tracing:
                    self._stop()
                tracing = False
                self._wake.wait(1.0)
                self._wake.clear()
                continue
            tracing = True
            began, rest = time.thread_time(), 0.0
            try:
                if self._round() > _LARGEST_TRACE:
                    rest = _REST_SECONDS
            except Exception as error:  # noqa: BLE001 (whatever fails here must not end the tracing for good)
                # Until Triton has loaded its models nobody listens.
                if not isinstance(error, ConnectionRefusedError):
                    self.tell(f"requests could not be traced: {error!r}")
                rest = _ROUND_SECONDS
            # Triton takes about as long to write a trace as it takes here to read it.
            spent = 2 * (time.thread_time() - began) / SHARE
            self._ended.wait(min(max(spent, rest), 2 * _REST_SECONDS))
        self._stop()

    def _stop(self) -> None:
        try:
            self._tracing.end()
        except (OSError, http.client.HTTPException) as error:
            self.tell(f"tracing could not be ended: {error}")
        for file in self._tracing.written():
            file.unlink(missing_ok=True)

    def _round(self) -> int:
        """Trace a few requests; gives the size of the largest in bytes."""
        share, largest = max(reader.wants() for reader in self._readers), 0
        eager = any(reader.eager and reader.wants() for reader in self._readers)
        left = self._many if eager else 1
        self._tracing.begin(left, share)
        end = time.monotonic() + (_ROUND_SECONDS if eager else _PATIENT_ROUND_SECONDS)
        while left and time.monotonic() < end and not self._ended.is_set():
            self._wake.wait(_LOOK_SECONDS if eager else _PATIENT_LOOK_SECONDS)
            for file in self._tracing.written():
                size = file.stat().st_size
                text = file.read_bytes() if size <= _LARGEST_TRACE else b""
                if size <= _LARGEST_TRACE and not text.endswith(b"]"):
                    continue  # Triton still writes it
                file.unlink(missing_ok=True)
                largest, left = max(largest, size), left - 1
                self._read(text, share)
            if self._wake.is_set() and not eager:
                break  # somebody may want more
            self._wake.clear()
        if eager:
            self._many = max(1, min(_MOST_A_ROUND, 2 * self._many, _LARGEST_ROUND // max(largest, 1)))
        return largest

    def _read(self, text: bytes, share: float) -> None:
        from longshore_triton import traced  # NumPy takes long to load, and waits here for the first request

        try:
            if not text:
                raise traced.UnreadableError(f"it has more than {_LARGEST_TRACE >> 20} MiB as text")
            request = traced.parse(text)
        except traced.UnreadableError as error:
            self.tell(f"a request is passed over: {error}")
            for reader in self._readers:
                reader.drop()
            return
        for reader in self._readers:
            if reader.wants():
                reader.take(request, share)
