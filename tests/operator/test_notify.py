"""Web hooks are told of every transition: at least once, in order, and without holding up anything."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from longshore.notify import Notifier
from longshore.plan.outbox import KEPT, MOST_PENDING, outbox, urls_of
from longshore.plan.outcome import Notice

from tests.operator.world import SPEC, World

Handler = Callable[[web.Request], Awaitable[web.Response]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/hook", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


class Hook:
    """A web hook that refuses so many entries first."""

    def __init__(self, refuse: int = 0) -> None:
        self.refuse = refuse
        self.got: list[dict[str, Any]] = []

    async def take(self, request: web.Request) -> web.Response:
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=503)
        self.got.append(await request.json())
        assert request.headers["Idempotency-Key"] == self.got[-1]["id"]
        return web.Response(status=204)

    @property
    def reasons(self) -> list[str]:
        return [entry["reason"] for entry in self.got]


def world_with(*urls: str) -> World:
    return World({**SPEC, "rollout": {"notifications": [{"url": url} for url in urls]}})


@contextlib.asynccontextmanager
async def operator(world: World) -> AsyncIterator[list[str]]:
    """The part of an operator that tells, with short pauses; gives the results of its tries."""
    results: list[str] = []
    notifier = Notifier(world.senses, results.append, pause=0.01)
    world.notify = notifier.notify
    try:
        yield results
    finally:
        await asyncio.wait_for(notifier.close(), 5)


async def until(world: World, done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():
            world.reconcile()
            await asyncio.sleep(0.01)


async def test_it_is_told_in_order_again_and_again_until_it_takes_it_and_then_nothing_waits() -> None:
    hook = Hook(refuse=3)
    async with serving(hook.take) as url:
        world = world_with(url)
        async with operator(world):
            world.settle()
            assert "Ready" in [entry["reason"] for entry in world.status["notifications"]]
            assert len(hook.got) == 0, "a reconcile waits for nobody"
            await until(world, lambda: "notifications" not in world.status)
            world.edit(model={"uri": 5})
            await until(world, lambda: "InvalidSpec" in hook.reasons and "notifications" not in world.status)
            assert world.settle() == [], "at rest nothing is written"
    assert hook.reasons.index("Ready") < hook.reasons.index("InvalidSpec")
    assert len({entry["id"] for entry in hook.got}) == len(hook.got), "each once, where nothing went wrong"
    assert set(hook.reasons) == set(world.told()), "all that stands in the events"
    first = hook.got[0]
    assert (first["namespace"], first["name"]) == ("team", "digits")
    assert first["text"].startswith("team/digits: ")
    assert first["type"] in ("Normal", "Warning")
    assert first["message"]


async def test_a_killed_operator_tells_it_after_all() -> None:
    hook = Hook(refuse=1_000_000)
    async with serving(hook.take) as url:
        world = world_with(url)
        async with operator(world) as results:
            world.settle()
            await until(world, lambda: len(results) > 1)
        assert hook.got == []
        hook.refuse = 0
        world.restart()
        async with operator(world):
            await until(world, lambda: "notifications" not in world.status)
    assert "Ready" in hook.reasons


async def test_a_web_hook_that_hangs_holds_up_neither_the_others_nor_the_operator() -> None:
    async def hangs(request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    hook = Hook()
    async with serving(hangs) as slow, serving(hook.take) as quick:
        world = world_with(slow, quick)
        async with operator(world):
            world.settle()
            owed = len(world.status["notifications"])
            await until(world, lambda: len(hook.got) == owed)
            for _ in range(5):
                world.reconcile()
                await asyncio.sleep(0.01)
            assert len(hook.got) == owed, "nobody is told again for the sake of another"
            assert len(world.status["notifications"]) == owed, "the other one is still owed"
            world.edit(rollout=None)
            world.reconcile()
            assert "notifications" not in world.status


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://127.0.0.1:1/", "http://["])
async def test_an_address_that_cannot_be_told_is_tried_with_pauses_and_loses_nothing(url: str) -> None:
    world = world_with(url)
    async with operator(world) as results:
        world.settle()
        await until(world, lambda: len(results) >= 3)
    assert set(results) == {"failed"}
    assert world.status["notifications"]


def test_what_waits_is_bounded_in_number_size_and_age() -> None:
    notices = [(str(i), Notice("Normal", "Scaled", "x" * 5000)) for i in range(40)]
    found = outbox((), notices, frozenset({"39"}), now=1e9)
    assert [entry["id"] for entry in found.pending] == [str(i) for i in range(39)][-MOST_PENDING:]
    assert found.given_up == 39 - MOST_PENDING
    assert all(len(entry["message"]) <= 500 for entry in found.pending)
    again = outbox(found.pending, notices[30:35], frozenset({"38"}), now=1e9)
    assert [e["id"] for e in again.pending] == [e["id"] for e in found.pending if e["id"] != "38"]
    old = outbox(found.pending, (), frozenset(), now=1e9 + KEPT + 1)
    assert (old.pending, old.given_up) == ((), MOST_PENDING)


@pytest.mark.parametrize("spec", [{}, {"rollout": 5}, {"rollout": {"notifications": 5}}, {"rollout": None}])
def test_a_spec_that_names_none_or_nonsense_has_no_web_hook(spec: dict[str, Any]) -> None:
    assert urls_of(spec) == ()
