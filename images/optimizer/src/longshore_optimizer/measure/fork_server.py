"""The process that workers are forked from: it has imported what they need, and runs nothing itself.

Starting Python and importing numpy and ONNX Runtime takes longer than most small models are timed for; a fork
takes none of it. Requests come as JSON over a socket of packets, one at a time: `start` brings a worker's
standard streams as file descriptors, `wait` asks how one ended, `end` ends one. With one thread only, a fork
is safe.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from typing import Any, NoReturn

import longshore_optimizer.measure.session
import longshore_optimizer.measure.worker  # noqa: F401 - what every worker needs is imported once, here

_MOST_BYTES = 1 << 16
_STREAMS = 3
_POLL_SECONDS = 0.002
_END_SECONDS = 30.0
_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def main() -> None:
    """Answer requests until the other side is gone."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    # Forks share what is not written to; a collection would write to every object.
    gc.collect()
    gc.freeze()
    while True:
        data, streams, _, _ = socket.recv_fds(channel, _MOST_BYTES, _STREAMS)
        if not data:
            return
        channel.send(json.dumps(_answer(json.loads(data), channel, streams)).encode())


def _answer(request: dict[str, Any], channel: socket.socket, streams: list[int]) -> dict[str, int | None]:
    if request["operation"] == "start":
        return {"pid": _start(request["module"], channel, streams)}
    if request["operation"] == "wait":
        return {"code": _wait(request["pid"], request["seconds"])}
    # A process that has been waited for is no child any more, and its number may be another's.
    if _wait(request["pid"], 0) is None:
        with suppress(ProcessLookupError):
            os.killpg(request["pid"], signal.SIGKILL)
    return {"code": _wait(request["pid"], _END_SECONDS)}


def _start(module: str, channel: socket.socket, streams: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(module, channel, streams)
    for descriptor in streams:
        os.close(descriptor)
    # Both sides make the group: whoever ends the worker may be faster than the worker itself.
    with suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)
    return pid


def _become(module: str, channel: socket.socket, streams: list[int]) -> NoReturn:
    """Be the worker from here on."""
    code = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        channel.close()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        importlib.import_module(module).main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - told on the worker's standard error, as an interpreter would
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    """Give the exit code of a worker, negative for a signal, None while it runs after so many seconds.

    One that was asked about before, and told as ended, counts as having ended well.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main()
