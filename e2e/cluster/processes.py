"""Detached processes: started with a log and a pid file, recognized and ended later by another run.

A pid alone names nobody: it is used again after its process ends. A process is named by its pid, the moment
it started (clock ticks since boot, proc(5) `starttime`) and the boot; signals go through a pidfd, which stays
with the process that was checked. Each process also carries its node's folder in its environment, so that one
whose pid file was never written is found too.
"""

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.files import write_atomically

MARK = "LONGSHORE_CLUSTER_ROOT"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ENDED = ("Z", "X", "x")


@dataclass(frozen=True)
class Identity:
    """Which process: its pid, when it started (ticks since boot), in which boot."""

    pid: int
    started: int
    boot: str


@dataclass(frozen=True)
class Record:
    """What a pid file holds: the process, and the fingerprint of what it was started with."""

    identity: Identity
    fingerprint: str


def identify(pid: int) -> Identity | None:
    """Who runs under this pid; None when nobody does (a zombie does not run)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return None
    # The command's name stands in brackets and may hold anything, brackets and spaces too.
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in _ENDED:
        return None
    return Identity(pid=pid, started=int(fields[19]), boot=_BOOT_ID.read_text().strip())


def is_running(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(identity.pid) == identity


def command_hash(command: Sequence[str]) -> str:
    """A short hash of some words, to see that a running process was started with others."""
    return hashlib.sha256("\0".join(command).encode()).hexdigest()[:16]


def read_record(pid_file: Path) -> Record | None:
    """What a pid file says; None when there is none or it is not one of ours."""
    try:
        content = json.loads(pid_file.read_text())
        identity = Identity(
            pid=int(content["pid"]), started=int(content["started"]), boot=str(content["boot"])
        )
        return Record(identity, str(content["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running(pid_file: Path) -> Record | None:
    """The record of a pid file whose process still runs; None otherwise."""
    record = read_record(pid_file)
    return record if record and is_running(record.identity) else None


def start(
    command: Sequence[str],
    *,
    folder: Path,
    log: Path,
    pid_file: Path,
    mark: str,
    fingerprint: str = "",
    environment: Mapping[str, str] | None = None,
) -> Identity:
    """Start a program in a session of its own, with `folder` as its working folder, and write its pid file.

    Its output is appended to `log`. `environment` is added to this process' own. Raises ClusterError when the
    program ends at once.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    null, append = os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        "/usr/bin/env",
        ["env", f"--chdir={folder}", *command],
        dict(os.environ) | dict(environment or {}) | {MARK: mark},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", null, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            # What this process was given, as a lock of `flock` around it, must not live on with the program.
            *((os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE],
    )
    identity = identify(pid)
    if identity is None:
        reap(pid)
        raise ClusterError(f"{Path(command[0]).name} ended at once.\n  next step: read {log}")
    content = asdict(identity) | {"fingerprint": fingerprint}
    write_atomically(pid_file, json.dumps(content) + "\n")
    return identity


def _inheritable() -> list[int]:
    """The open files that a program started from here would get beside the three standard ones."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def reap(pid: int) -> None:
    """Collect an ended process if it is a child of this one; otherwise init does."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def stop(identities: Iterable[Identity], *, grace: float) -> list[Identity]:
    """End processes: SIGTERM, `grace` seconds for all of them together, then SIGKILL.

    Returns those that still run ten seconds after SIGKILL. A pid that belongs to another process by then is
    left alone.
    """
    left = _signal(list(identities), signal.SIGTERM)
    left = _await_end(left, grace)
    left = _signal(left, signal.SIGKILL)
    return _await_end(left, 10)


def _signal(identities: list[Identity], number: signal.Signals) -> list[Identity]:
    """Send a signal to each process that is still itself; returns those."""
    reached = []
    for identity in identities:
        try:
            descriptor = os.pidfd_open(identity.pid)
        except OSError:
            continue
        try:
            # Checked after the pidfd is open: from here on it cannot mean another process.
            if is_running(identity):
                signal.pidfd_send_signal(descriptor, number)
                reached.append(identity)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)
    return reached


def _await_end(identities: list[Identity], seconds: float) -> list[Identity]:
    deadline = time.monotonic() + seconds
    while True:
        left = [identity for identity in identities if is_running(identity)]
        for identity in identities:
            if identity not in left:
                reap(identity.pid)
        if not left or time.monotonic() >= deadline:
            return left
        identities = left
        time.sleep(0.02)


def marked(mark: str) -> list[Identity]:
    """Every running process that carries this mark in its environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in environment and (identity := identify(int(entry.name))):
            found.append(identity)
    return found


def program_of(identity: Identity) -> str:
    """The name of the program that a process was started as; "?" when it is gone."""
    try:
        command = Path(f"/proc/{identity.pid}/cmdline").read_bytes()
    except OSError:
        return "?"
    return Path(os.fsdecode(command.split(b"\0")[0])).name or "?"
