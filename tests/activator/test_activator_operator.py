"""The operator's side against a real activator process: what it tells, and what it hears."""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import longshore.activators
import pytest
from longshore.activators import Activators
from longshore.index import Index, Key
from longshore.plan.state import Activation, Endpoint

from tests.waiting import until

KEY = ("team", "digits")
TOKEN = "a-token-of-enough-length"


class Pods:
    """A cluster whose activator pods have these loopback addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def list(self, *_: object) -> dict[str, object]:
        pods = [{"metadata": {"name": ip}, "status": {"podIP": ip}} for ip in self._addresses]
        return {"items": pods}


@contextlib.asynccontextmanager
async def activator(token: Path, address: str, control: int = 0) -> AsyncIterator[tuple[Process, int]]:
    """Run an activator; gives it with its control port."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "longshore_activator", "--token-file", str(token), "--bind", address,
        "--control-bind", address, "--control-port", str(control), "--drain-delay", "0",
        "--drain-timeout", "5", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    try:
        async with asyncio.timeout(30):
            while b"control on" not in (line := await child.stderr.readline()):
                assert line, "the activator ended at once"
        yield child, int(json.loads(line)["message"].rpartition(":")[2])
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        await child.stderr.read()


@contextlib.asynccontextmanager
async def following(token: Path, *addresses: str) -> AsyncIterator[Activators]:
    """Follow the activators at these addresses as the operator does."""
    found = Activators(Index(), "longshore-system", token)
    task = asyncio.ensure_future(found.run(Pods(*addresses)))  # type: ignore[arg-type]
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def token(tmp_path: Path, pod: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(longshore.activators, "HTTP_PORT", pod.port)
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture
async def activators(token: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Activators]:
    async with activator(token, "127.0.0.1") as (_, port):
        monkeypatch.setattr(longshore.activators, "CONTROL_PORT", port)
        async with following(token, "127.0.0.1") as found:
            yield found


async def test_who_waits_is_heard_by_push_and_a_pod_told_ends_the_wait(activators: Activators) -> None:
    woken: list[Key] = []
    activators.wake = woken.append
    await until(lambda: activators.view(KEY))
    view = activators.view(KEY)
    assert view is not None
    activators.tell(KEY, Activation(view.http, view.grpc))
    await until(lambda: activators.view(KEY).addresses)  # type: ignore[union-attr]
    assert not activators.awaited(KEY)
    woken.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", view.http)
    writer.write(b"hello")
    writer.write_eof()
    await until(lambda: activators.awaited(KEY))
    assert woken[0] == KEY
    assert activators.view(KEY).waiting.demand == 1  # type: ignore[union-attr]
    activators.tell(KEY, Activation(view.http, view.grpc, (Endpoint("127.0.0.1", ready=True),)))
    async with asyncio.timeout(10):
        assert await reader.read() == b"HELLO"
    await until(lambda: not activators.awaited(KEY))
    writer.close()


async def test_what_a_warm_copy_answers_wakes_the_model_until_a_pod_is_told(activators: Activators) -> None:
    woken: list[Key] = []
    activators.wake = woken.append
    await until(lambda: activators.view(KEY))
    view = activators.view(KEY)
    assert view is not None
    warm = Endpoint("127.0.0.1", ready=True, warm=True)
    activators.tell(KEY, Activation(view.http, view.grpc, (warm,)))
    await until(lambda: activators.view(KEY).addresses)  # type: ignore[union-attr]
    woken.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", view.http)
    writer.write(b"hello")
    writer.write_eof()
    async with asyncio.timeout(10):
        assert await reader.read() == b"HELLO"
    writer.close()
    await until(lambda: activators.awaited(KEY))
    assert woken[0] == KEY
    activators.tell(KEY, Activation(view.http, view.grpc, (warm, Endpoint("127.0.0.9", ready=False))))
    await until(lambda: not activators.awaited(KEY))


async def test_a_killed_activator_loses_only_what_it_holds_and_the_other_goes_on(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = "127.0.0.1", "127.0.0.2"
    async with activator(token, both[0]) as (first, port), activator(token, both[1], port):
        monkeypatch.setattr(longshore.activators, "CONTROL_PORT", port)
        async with following(token, *both) as found:
            await until(lambda: found.view(KEY))
            view = found.view(KEY)
            assert view is not None
            found.tell(KEY, Activation(view.http, view.grpc))
            await until(lambda: found.view(KEY).addresses == both)  # type: ignore[union-attr]
            clients = [await asyncio.open_connection(address, view.http) for address in both]
            for _, writer in clients:
                writer.write(b"hello")
                writer.write_eof()
            await until(lambda: found.view(KEY).waiting.demand == 2)  # type: ignore[union-attr]
            first.kill()
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionResetError):
                    await clients[0][0].read()
            await until(lambda: found.view(KEY).addresses == both[1:])  # type: ignore[union-attr]
            assert found.view(KEY).waiting.demand == 1  # type: ignore[union-attr]
            found.tell(KEY, Activation(view.http, view.grpc, (Endpoint("127.0.0.1", ready=True),)))
            async with asyncio.timeout(10):
                assert await clients[1][0].read() == b"HELLO"
            for _, writer in clients:
                writer.close()
