"""One process, or a parent that keeps several alive on one port."""

import gc
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass, field, replace
from types import FrameType

from longshore_server import cgroup, logs, sizing
from longshore_server.artifact import Artifact
from longshore_server.config import Settings
from longshore_server.errors import ExitCode, StartupError, cannot_listen
from longshore_server.metrics import SharedMemory
from longshore_server.sizing import Sizing

_log = logging.getLogger(__name__)
_POLL = 0.1
# A worker that fails this often within this many seconds will not do better the next time.
_MAX_RESTARTS = 5
_RESTART_WINDOW = 60.0


def run(settings: Settings, artifact: Artifact) -> int:
    """Serve until told to stop; returns the exit code. Raises `StartupError`."""
    size = _size(settings, artifact)
    memory = SharedMemory(size.workers)
    if size.workers == 1:
        return _serve(settings, artifact, memory, 0, size)
    settings = replace(
        settings,
        http_port=_claim(settings.host, settings.http_port),
        grpc_port=_claim(settings.host, settings.grpc_port) if settings.grpc_port else 0,
    )
    return _Supervisor(settings, artifact, memory, size).run()


def _claim(host: str, port: int) -> int:
    """Make sure that `port` is free, or find one for 0: workers that share ports would share a stranger's
    too.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise cannot_listen(host, port, error) from None
        return int(probe.getsockname()[1])


def _size(settings: Settings, artifact: Artifact) -> Sizing:
    processors = cgroup.cpu_limit()
    held = sizing.model_bytes(artifact)
    measured = None
    if sizing.needs_measurement(processors, held, settings):
        measured = sizing.measure_in_child(artifact, settings.providers, int(processors))
    wanted = Sizing(settings.workers, settings.threads)
    chosen = sizing.choose(processors, held, cgroup.memory_limit(), measured, wanted, artifact.timed_threads)
    _log.info(
        "sized",
        extra={"fields": {"workers": chosen.workers, "threads": chosen.threads, "processors": processors}},
    )
    return chosen


def _serve(settings: Settings, artifact: Artifact, memory: SharedMemory, worker: int, size: Sizing) -> int:
    # Imported late: the parent of several workers never needs the runtime.
    from longshore_server import lifecycle

    return lifecycle.serve(settings, artifact, memory, worker, size.threads)


@dataclass(slots=True)
class _Supervisor:
    """Starts the workers, starts crashed ones again, and passes on the signals to stop."""

    settings: Settings
    artifact: Artifact
    memory: SharedMemory
    size: Sizing
    children: dict[int, int] = field(default_factory=dict)  # process id -> worker
    crashes: list[float] = field(default_factory=list)
    stopping: bool = False

    def run(self) -> int:
        """Return when the last worker has ended, with the worst of their exit codes."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for worker in range(self.size.workers):
            self._start(worker)
        gc.enable()
        worst = 0
        while self.children:
            worst = max(worst, self._reap())
            time.sleep(_POLL)
        return worst

    def _start(self, worker: int) -> None:
        self.memory.forget_gauges(worker)
        child = os.fork()
        if child:
            self.children[child] = worker
            return
        code = int(ExitCode.FAILURE)
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            code = _serve(self.settings, self.artifact, self.memory, worker, self.size)
        except StartupError as error:
            logs.report_startup_failure(error, self.settings.termination_log)
            code = error.exit_code
        finally:
            os._exit(code)

    def _reap(self) -> int:
        """Take note of every worker that has ended; returns the code to end with on its account."""
        worst = 0
        while self.children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                break
            worker = self.children.pop(child, None)
            if worker is None:
                continue  # not ours: a process adopted as PID 1
            self.memory.forget_gauges(worker)
            code = os.waitstatus_to_exitcode(status)
            if self.stopping:
                worst = max(worst, abs(code))
            elif code > 1:
                worst = code  # it said why itself, and would say it again
                self._stop(signal.SIGTERM, None)
            else:
                worst = self._restart(worker, code)
        return worst

    def _restart(self, worker: int, code: int) -> int:
        now = time.monotonic()
        self.crashes = [moment for moment in self.crashes if now - moment < _RESTART_WINDOW] + [now]
        if len(self.crashes) > _MAX_RESTARTS:
            _log.error("workers ended %d times within %d s: giving up", len(self.crashes), _RESTART_WINDOW)
            self._stop(signal.SIGTERM, None)
            return int(ExitCode.FAILURE)
        _log.error("worker %d ended with %d: starting it again", worker, code)
        self._start(worker)
        return 0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        for child in self.children:
            try:
                os.kill(child, signal.SIGTERM if number == signal.SIGTERM else signal.SIGINT)
            except ProcessLookupError:
                continue
