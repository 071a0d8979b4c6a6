"""The operator's side against a real activator process: what it tells, and what it hears."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import longshore.activators
import pytest
from longshore.activators import Activators
from longshore.index import Index, Key
from longshore.plan.state import Activation, Endpoint

KEY = ("team", "digits")
TOKEN = "a-token-of-enough-length"


class OnePod:
    """A cluster whose only activator pod has the loopback address."""

    async def list(self, *_: object) -> dict[str, object]:
        return {"items": [{"metadata": {"name": "activator-0"}, "status": {"podIP": "127.0.0.1"}}]}


@pytest.fixture
async def activators(tmp_path: Path, pod: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Activators]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "longshore_activator", "--token-file", str(token), "--bind", "127.0.0.1",
        "--control-bind", "127.0.0.1", "--control-port", "0", "--drain-delay", "0", "--drain-timeout", "5",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    async with asyncio.timeout(30):
        while b"control on" not in (line := await child.stderr.readline()):
            assert line, "the activator ended at once"
    monkeypatch.setattr(
        longshore.activators, "CONTROL_PORT", int(json.loads(line)["message"].rpartition(":")[2])
    )
    monkeypatch.setattr(longshore.activators, "HTTP_PORT", pod.port)
    found = Activators(Index(), "longshore-system", token)
    task = asyncio.ensure_future(found.run(OnePod()))  # type: ignore[arg-type]
    yield found
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    child.kill()
    await child.wait()
    await child.stderr.read()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - conditions of another process
            await asyncio.sleep(0.01)


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
