"""What 200 ModelDeployments cost before anything is decided: kopf's own work on the same events.

A process that hears by kopf all that the operator hears in one way or another, and does nothing with it.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Self

import kopf
from longshore.lists import WATCHED
from longshore.resources.kinds import MODEL_DEPLOYMENT

from bench.reconcile.hearing import run

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = 0.02
"""CPU seconds a second of a process that only waits."""


class Listener:
    """A process with kopf in one namespace; by default its handler does nothing, for the operator's kinds.

    `given` is what it reads from its standard input.
    """

    def __init__(
        self, kubeconfig: Path, namespace: str, module: str = "bench.reconcile.floor", given: str = ""
    ) -> None:
        self._kubeconfig = kubeconfig
        self._arguments = (module, namespace)
        self._given = given

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *self._arguments),
            env=os.environ | {"KUBECONFIG": str(self._kubeconfig)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(self._given.encode())
        self._process.stdin.write_eof()
        async with asyncio.timeout(60):
            await self._process.stdout.readline()
        self._started = self._spent()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        await asyncio.wait_for(self._process.wait(), 30)

    def cpu_seconds(self) -> float:
        """Give the user and system time since the watches stand."""
        return self._spent() - self._started

    async def total(self, quiet: float, most: float) -> float:
        """Give the user and system time since the process started, once it has been idle for `quiet` seconds.

        Raises:
            TimeoutError: it is still at work after `most` seconds.
        """
        spent = self._spent()
        async with asyncio.timeout(most):
            while True:
                await asyncio.sleep(quiet)
                before, spent = spent, self._spent()
                if spent - before <= _IDLE * quiet:
                    return before

    def _spent(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


async def _listen(namespace: str) -> None:
    registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()

    async def nothing(**_: Any) -> None:
        """Hear of it."""

    for kind in WATCHED:
        if kind is not MODEL_DEPLOYMENT:
            settings.watching.label_selectors[(kind.group, kind.version, kind.plural)] = kind.selector
        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)(nothing)
    await run(registry, settings, namespace)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_listen(sys.argv[1]))
