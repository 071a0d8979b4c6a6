"""Runs `tritonserver` and watches it: drains it on SIGTERM, ends it when a Python stub is gone.

Triton goes on calling a model ready after the process that runs it has died, and answers its requests with
errors for ever; and it waits its whole exit timeout for connections that are open but idle, or kept busy.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from longshore_triton import processes
from longshore_triton.closing import Closing
from longshore_triton.errors import StartError
from longshore_triton.log import Log
from longshore_triton.wanted import Wanted

LOAD_FAILED = "ModelLoadFailed"
"""Reason where the server ended before it was ready."""

_LOOK_EVERY = 0.5
_STUCK_SECONDS = 5.0
"""A stub that ended during the load and was not reaped for so long never told the server."""
_QUIET_SECONDS = 3.0
_QUIET_TICKS = 1
"""No more CPU time than this (in clock ticks, usually 10 ms each) in `_QUIET_SECONDS` is no inference."""
_KILL_AFTER = 3.0
_GRPC_AGES = 1.2
"""A connection that was made just before has been told to go after so many ages."""


class Supervisor:
    """One run of the server, from start to end."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        wanted: Wanted,
        closing: Closing,
        log: Log,
        told: threading.Event | None = None,
    ) -> None:
        """Prepare one run; `told` is set by the signal to end, and may have been before it starts."""
        self._command = list(command)
        self._environment = closing.environment(environment)
        self._closing = closing
        self._wanted = wanted
        self._log = log
        self._told = told or threading.Event()
        self._stubs: set[int] = set()
        self._ready = False

    def run(self) -> int:
        """Run until the server ends; gives the exit code.

        Raises:
            StartError: the server or one of its stubs died without being asked to.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        server = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            process_group=0,
            pass_fds=self._closing.files,
            text=True,
            errors="replace",
        )
        reader = threading.Thread(target=self._read, args=(server,), daemon=True)
        reader.start()
        try:
            self._watch(server)
            if self._told.is_set():
                self._drain(server)
                return 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            reader.join(timeout=1)
            processes.remove_left_regions()
        raise self._died(server.returncode)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._told.set()

    def _read(self, server: "subprocess.Popen[str]") -> None:
        assert server.stdout is not None  # asked for
        for line in server.stdout:
            self._log.pass_on(line)

    def _watch(self, server: "subprocess.Popen[str]") -> None:
        """Wait until the server has ended or is told to."""
        ended_since: dict[int, float] = {}
        while server.poll() is None and not self._told.wait(_LOOK_EVERY):
            now = time.monotonic()
            there = {stub.pid: stub for stub in processes.stubs(server.pid)}
            if not self._ready:
                ended = {pid for pid, stub in there.items() if stub.ended}
                ended_since = {pid: ended_since.get(pid, now) for pid in ended}
                if any(now - since > _STUCK_SECONDS for since in ended_since.values()):
                    raise StartError(
                        "ModelCrashed",
                        f"a Python stub of Triton ended while the model was loaded: {self._words()}",
                    )
                if self._answers():
                    self._ready = True
                    self._stubs = {pid for pid, stub in there.items() if not stub.ended}
                    self._log.say("info", f"ready with {len(self._stubs)} Python stubs")
            elif gone := [pid for pid in self._stubs if pid not in there or there[pid].ended]:
                raise StartError(
                    "ModelCrashed",
                    f"the process that ran the model ({len(gone)} of {len(self._stubs)} copies) ended by "
                    f"itself: {self._words()}; look for a crash in the model's operators or too little "
                    "memory (serving.resources.limits.memory)",
                )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._wanted.http_port, timeout=1)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _drain(self, server: "subprocess.Popen[str]") -> None:
        """Answer a little longer, then let the server finish; cut idle connections, but no request."""
        self._closing.set()
        self._log.say("info", f"told to end: answering for {self._wanted.drain_seconds} s more")
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(self._wanted.drain_seconds)
            return
        if self._wanted.drain_seconds:
            self._await_grpc(server)
        server.send_signal(signal.SIGTERM)
        end = time.monotonic() + self._wanted.exit_seconds + _KILL_AFTER
        # A GPU or a model's own Python may be at work without using the CPU.
        may_be_quiet = not self._wanted.gpus and not self._wanted.allow_python
        quiet = max(_QUIET_SECONDS, 2e-6 * (self._wanted.max_delay_us or 0))
        since, ticks = time.monotonic(), processes.cpu_ticks(server.pid)
        while time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(_LOOK_EVERY)
                return
            used = processes.cpu_ticks(server.pid)
            if used - ticks > _QUIET_TICKS or not may_be_quiet:
                since, ticks = time.monotonic(), used
            elif time.monotonic() - since > quiet:
                self._log.say("info", "nothing is being computed: cutting idle connections")
                return

    def _await_grpc(self, server: "subprocess.Popen[str]") -> None:
        """Wait until gRPC's clients have gone elsewhere: told to end, Triton unloads the model under them."""
        end = time.monotonic() + _GRPC_AGES * self._wanted.grpc_age_seconds
        while clients := processes.connections(self._wanted.grpc_port):
            if time.monotonic() > end:
                self._log.say("warning", f"{clients} gRPC connections are still open, and are cut")
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(_LOOK_EVERY)
                return

    def _died(self, code: int) -> StartError:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        when = "while serving" if self._ready else "while loading the model"
        reason = "ServerFailed" if self._ready else LOAD_FAILED
        return StartError(reason, f"tritonserver ended with {how} {when}: {self._words()}")

    def _words(self) -> str:
        return self._log.last_trouble() or "it said nothing; see the container's log"
