"""The work queue: one worker a key, no key twice, failures later and later, nothing lost."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from longshore import queue as queue_module
from longshore.queue import Queue

from tests.waiting import until


@contextlib.asynccontextmanager
async def running(queue: Queue[str]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(queue.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_key_asked_for_often_is_worked_on_once() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    queue: Queue[str] = Queue(work)
    for _ in range(5):
        queue.add("a")
    queue.add("b")
    assert queue.depth == 2
    async with running(queue):
        await until(lambda: queue.idle)
    assert sorted(done) == ["a", "b"]


async def test_no_key_is_worked_on_by_two_at_once_and_news_meanwhile_are_not_lost() -> None:
    active, most, done, gate = 0, 0, 0, asyncio.Event()

    async def work(key: str) -> None:
        nonlocal active, most, done
        active += 1
        most = max(most, active)
        await gate.wait()
        active -= 1
        done += 1

    queue: Queue[str] = Queue(work, workers=4)
    async with running(queue):
        queue.add("a")
        await until(lambda: active == 1)
        queue.add("a")
        queue.add("a")
        gate.set()
        await until(lambda: queue.idle)
    assert (most, done) == (1, 2)


async def test_different_keys_run_side_by_side_up_to_the_number_of_workers() -> None:
    active: set[str] = set()
    gate = asyncio.Event()

    async def work(key: str) -> None:
        active.add(key)
        await gate.wait()

    queue: Queue[str] = Queue(work, workers=3)
    async with running(queue):
        for key in "abcde":
            queue.add(key)
        await until(lambda: len(active) == 3)
        await asyncio.sleep(0)
        assert len(active) == 3
        assert queue.depth == 2
        gate.set()
        await until(lambda: queue.idle)
    assert active == set("abcde")


async def test_a_failure_is_tried_again_later_and_later_and_success_forgets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_module, "BACKOFF_FIRST", 0.02)
    times: list[float] = []
    told: list[str] = []

    async def work(key: str) -> None:
        times.append(time.monotonic())
        if len(times) < 5:
            raise RuntimeError("not yet")

    queue: Queue[str] = Queue(work, failed=lambda key, error: told.append(f"{key}: {error}"))
    async with running(queue):
        queue.add("a")
        await until(lambda: len(times) == 5)
        await until(lambda: queue.idle)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert told == ["a: not yet"] * 4
    for pause, least in zip(pauses, (0.016, 0.032, 0.064, 0.128), strict=True):
        assert pause >= least * 0.99
    assert not queue._failures


async def test_one_failing_key_does_not_keep_others_from_work() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        if key == "bad":
            raise RuntimeError("always")
        done.append(key)

    queue: Queue[str] = Queue(work, workers=1, failed=lambda key, error: None)
    async with running(queue):
        queue.add("bad")
        for number in range(20):
            queue.add(str(number))
        await until(lambda: len(done) == 20)


async def test_it_comes_back_when_asked_to_and_the_earliest_wish_stands() -> None:
    times: list[float] = []

    async def work(key: str) -> float | None:
        times.append(time.monotonic())
        return 0.05 if len(times) == 1 else None

    queue: Queue[str] = Queue(work)
    async with running(queue):
        queue.add("a")
        await until(lambda: len(times) == 2)
        queue.add_after("a", 30)
        queue.add_after("a", 0.05)
        queue.add_after("a", 20)
        await until(lambda: len(times) == 3)
    assert times[1] - times[0] >= 0.05


async def test_a_queue_that_stands_still_is_seen() -> None:
    now = 0.0
    gate = asyncio.Event()

    async def work(key: str) -> None:
        await gate.wait()

    queue: Queue[str] = Queue(work, workers=1, clock=lambda: now)
    async with running(queue):
        await asyncio.sleep(0)
        queue.add("a")
        queue.add("b")
        await until(lambda: queue.depth == 1)
        now = 200.0
        assert queue.stuck_for() == 200
        gate.set()
        await until(lambda: queue.idle)
        assert queue.stuck_for() == 0


async def test_a_follower_whose_queue_fills_is_not_stuck() -> None:
    now = 0.0
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    queue: Queue[str] = Queue(work, clock=lambda: now)
    queue.add("a")
    now = 10_000.0
    assert queue.stuck_for() == 0, "another process leads; this one is well"
    async with running(queue):
        await until(lambda: done == ["a"])
    assert queue.stuck_for() == 0


@pytest.mark.parametrize("ticks", range(8))
async def test_it_ends_when_told_even_if_a_wish_came_just_before(ticks: int) -> None:
    async def work(key: str) -> None:
        """Nothing to do."""

    queue: Queue[str] = Queue(work, workers=1)
    queue.add_after("late", 7200)
    running = asyncio.ensure_future(queue.run())
    await asyncio.sleep(0.01)
    queue.add_after("soon", 3600)
    for _ in range(ticks):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running}, timeout=5)
    assert running.cancelled()
