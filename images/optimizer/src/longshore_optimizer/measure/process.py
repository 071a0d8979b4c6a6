"""The parent's side of a worker: asks with a deadline, tells how it died."""

import json
import os
import selectors
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Protocol, Self, TypeVar

from longshore.artifact.base import Wire

from longshore_optimizer.measure.protocol import Failure

_KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_MPS_PIPE_DIRECTORY",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "SYSTEMROOT",
)
_TAIL = 2000

Answer = TypeVar("Answer", bound=Wire)


class WorkerError(Exception):
    """A worker answered with an error, died, or ran out of time; `kind` tells which."""

    def __init__(self, message: str, kind: str) -> None:
        """Keep message and kind: an exception's name, `Died`, `NotStarted`, `OutOfMemory` or `Timeout`."""
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Cores:
    """CPU that measured processes may use: threads for ONNX Runtime, and the cores they are pinned to."""

    threads: int
    cores: tuple[int, ...]
    limit: float


def clean_environment(cores: Cores | None = None) -> dict[str, str]:
    """Environment of a process that handles hostile input: no credentials, no telemetry, no stray threads."""
    environment = {k: os.environ[k] for k in _KEPT if k in os.environ}
    environment |= {"ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1"}
    if cores is not None:
        environment["LONGSHORE_WORKER_CORES"] = ",".join(str(c) for c in cores.cores)
        environment["OMP_NUM_THREADS"] = str(cores.threads)
    return environment


@dataclass(frozen=True)
class Streams:
    """A worker's standard streams, as its parent has them."""

    requests: IO[bytes]
    answers: IO[bytes]
    log: IO[bytes]


class Keeper(Protocol):
    """Tells how a worker ended, and ends it where it runs."""

    def wait(self, pid: int, seconds: float) -> int | None:
        """Give the exit code, negative for a signal, None while it runs after so many seconds."""

    def end(self, pid: int) -> None:
        """End the process and everything it started."""


class WorkerProcess:
    """One fresh worker; a context manager that ends it. `Workers.start` makes it."""

    def __init__(self, pid: int, streams: Streams, keeper: Keeper) -> None:
        """Take a process that was started, and its streams."""
        self.pid = pid
        self._streams = streams
        self._keeper = keeper
        self._buffer = b""
        self._running = True

    def ask(self, answer: type[Answer], timeout: float, **request: Any) -> Answer:
        """Send a request and wait for its answer at most `timeout` seconds.

        Raises:
            WorkerError: the worker failed, died or did not answer in time (it is ended then).
        """
        line = json.dumps(request, default=str).encode() + b"\n"
        try:
            self._streams.requests.write(line)
            self._streams.requests.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._death() from error
        text = self._read_line(time.monotonic() + timeout)
        data = json.loads(text)
        if "error" in data and "kind" in data:
            failure = Failure.model_validate(data)
            kind = "OutOfMemory" if _is_memory(failure) else failure.kind
            raise WorkerError(failure.error, kind)
        return answer.model_validate(data)

    def _read_line(self, deadline: float) -> bytes:
        answers = self._streams.answers.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.end()
                    raise WorkerError("no answer within its time", "Timeout")
                chunk = os.read(answers, 1 << 16)
                if not chunk:
                    raise self._death()
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _death(self) -> WorkerError:
        if self._streams.log.closed:
            return WorkerError("the process was ended", "Died")
        code = self._keeper.wait(self.pid, 10)
        if code is None:
            return WorkerError("the process stopped answering", "Died")
        self._running = False
        if code == -signal.SIGKILL:
            return WorkerError("the process was killed, most likely for lack of memory", "OutOfMemory")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = tail(self._streams.log)
        return WorkerError(f"the process died ({name}): {said or 'it said nothing'}", "Died")

    def end(self) -> None:
        """End the process and everything it started."""
        if self._running:
            self._running = False
            with suppress(WorkerError):
                self._keeper.end(self.pid)
        for stream in (self._streams.requests, self._streams.answers, self._streams.log):
            with suppress(OSError):
                stream.close()

    def __enter__(self) -> Self:
        """Give the worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.end()


def tail(log: IO[bytes]) -> str:
    """Give the last line of what a process said."""
    log.seek(0, os.SEEK_END)
    log.seek(max(log.tell() - _TAIL, 0))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _is_memory(failure: Failure) -> bool:
    text = failure.error.lower()
    return failure.kind == "MemoryError" or "failed to allocate memory" in text or "bad_alloc" in text
