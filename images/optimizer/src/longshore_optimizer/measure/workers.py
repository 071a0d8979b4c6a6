"""Starts workers: each a process of its own, forked from one that has imported what they need."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

from longshore_optimizer.measure.process import (
    Cores,
    Streams,
    WorkerError,
    WorkerProcess,
    clean_environment,
    tail,
)

WORKER = "longshore_optimizer.measure.worker"
_SERVER = "longshore_optimizer.measure.fork_server"

_TIMEOUT = 120.0
"""Seconds that an answer may take: a cold disk and a small CPU limit make imports slow."""

_MOST_BYTES = 1 << 12


@dataclass(frozen=True)
class _Server:
    """The process that workers are forked from, the way to ask it, and what it says when it dies."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    log: IO[bytes]


class Workers:
    """Where workers with the same CPU come from; a context manager.

    Workers are as fresh as processes started anew, but for the places where libraries lie in memory, which
    those of one `Workers` have in common. They end with it.
    """

    def __init__(self, cores: Cores) -> None:
        """Start nothing yet."""
        self.cores = cores
        self._server: _Server | None = None

    def start(self, module: str = WORKER) -> WorkerProcess:
        """Start a worker that runs `main` of a module.

        Raises:
            WorkerError: the process to fork from does not start, or does not answer.
        """
        log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        try:
            server = self._server or self._started()
            answer = self._ask(
                server, (theirs_in, theirs_out, log.fileno()), operation="start", module=module
            )
        except BaseException as error:
            os.close(ours_in)
            os.close(ours_out)
            log.close()
            if isinstance(error, WorkerError) and error.kind == "Died":
                raise WorkerError(str(error), "NotStarted") from error
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        streams = Streams(os.fdopen(ours_in, "wb"), os.fdopen(ours_out, "rb"), log)
        return WorkerProcess(int(answer["pid"]), streams, self)

    def wait(self, pid: int, seconds: float) -> int | None:
        """Give the exit code of a worker, negative for a signal, None while it runs after so many seconds.

        Raises:
            WorkerError: the process that the worker was forked from died, and the worker with it.
        """
        if self._server is None:
            raise WorkerError("the process that others are started from has ended", "Died")
        code = self._ask(self._server, (), operation="wait", pid=pid, seconds=seconds)["code"]
        return None if code is None else int(code)

    def end(self, pid: int) -> None:
        """End a worker and everything it started."""
        if self._server is not None:
            self._ask(self._server, (), operation="end", pid=pid)

    def _started(self) -> _Server:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_TIMEOUT)
        log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", _SERVER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(self.cores),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._server = _Server(process, ours, log)
        return self._server

    def _ask(self, server: _Server, streams: tuple[int, ...], **request: Any) -> dict[str, Any]:
        try:
            socket.send_fds(server.channel, [json.dumps(request).encode()], streams)
            data = server.channel.recv(_MOST_BYTES)
        except TimeoutError as error:
            self.close()
            raise WorkerError("no process could be started or ended within its time", "Timeout") from error
        except OSError:
            data = b""
        if not data:
            said = tail(server.log)
            self.close()
            raise WorkerError(
                f"the process that others are started from died: {said or 'it said nothing'}", "Died"
            )
        answer: dict[str, Any] = json.loads(data)
        return answer

    def close(self) -> None:
        """End the process that workers are forked from, and them with it."""
        if self._server is None:
            return
        self._server.channel.close()
        self._server.process.kill()
        self._server.process.wait(timeout=30)
        self._server.log.close()
        self._server = None

    def __enter__(self) -> Self:
        """Give the starter itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process that workers are forked from, and them with it."""
        self.close()
