"""The parent's side of a worker: starts it with a clean environment, asks with a deadline, tells how it
died."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

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
        """Keep message and kind: an exception's name, `Died`, `OutOfMemory` or `Timeout`."""
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


class WorkerProcess:
    """One fresh worker; a context manager that ends it."""

    def __init__(
        self, cores: Cores | None = None, module: str = "longshore_optimizer.measure.worker"
    ) -> None:
        """Start the process."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=clean_environment(cores),
            start_new_session=True,
        )
        self._buffer = b""

    def ask(self, answer: type[Answer], timeout: float, **request: Any) -> Answer:
        """Send a request and wait for its answer at most `timeout` seconds.

        Raises:
            WorkerError: the worker failed, died or did not answer in time (it is ended then).
        """
        line = json.dumps(request, default=str).encode() + b"\n"
        if self._process.stdin is None:
            raise AssertionError("the worker has a pipe for requests")
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
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
        stdout = self._process.stdout
        if stdout is None:
            raise AssertionError("the worker has a pipe for answers")
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.end()
                    raise WorkerError("no answer within its time", "Timeout")
                chunk = os.read(stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._death()
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _death(self) -> WorkerError:
        code = self._process.wait(timeout=10)
        if code == -signal.SIGKILL:
            return WorkerError("the process was killed, most likely for lack of memory", "OutOfMemory")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(self._log.tell() - _TAIL, 0))
        tail = self._log.read().decode(errors="replace").strip().splitlines()
        return WorkerError(f"the process died ({name}): {tail[-1] if tail else 'it said nothing'}", "Died")

    def end(self) -> None:
        """End the process and everything it started."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait(timeout=30)
        self._log.close()

    def __enter__(self) -> Self:
        """Give the worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.end()


def _is_memory(failure: Failure) -> bool:
    text = failure.error.lower()
    return failure.kind == "MemoryError" or "failed to allocate memory" in text or "bad_alloc" in text
