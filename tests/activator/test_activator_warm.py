"""Warm copies: who gets one, and what the operator is told of it."""

import asyncio

import pytest

from tests.activator.conftest import Pod, ask


def warm(harness, pod, ready=True, **more):
    """Give the model's table with one warm copy."""
    return {
        **harness.route([], pod.port, **more),
        "endpoints": [{"address": "127.0.0.1", "ready": ready, "warm": True}],
    }


@pytest.fixture
async def ordinary(pod):
    """A pod beside the warm copy, on the same port of another address."""
    made = await Pod().listen("127.0.0.3", pod.port)
    yield made
    await made.close()


async def test_a_burst_at_zero_is_answered_by_the_copy_with_nobody_held(harness, pod):
    harness.apply(warm(harness, pod))
    assert await asyncio.gather(*(ask(harness.port()) for _ in range(50))) == [b"HELLO"] * 50
    assert pod.connections == 50
    assert harness.number("held") == 0
    assert harness.number("demand") == 1, "the pod is still to come"


async def test_open_clients_of_the_copy_are_counted_as_demand(harness, pod):
    harness.apply(warm(harness, pod))
    clients = [await asyncio.open_connection("127.0.0.1", harness.port()) for _ in range(3)]
    for reader, writer in clients:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"X"
    assert harness.number("demand") == 3
    for _, writer in clients:
        writer.close()
    await harness.until(lambda: harness.number("demand") == 1)


async def test_who_says_nothing_neither_gets_the_copy_nor_wakes_the_model(harness, pod):
    harness.apply(warm(harness, pod))
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    await harness.until(lambda: harness.number("held") == 1)
    assert pod.connections == 0
    assert harness.number("demand") == 0
    writer.write(b"after all")
    assert await reader.readexactly(9) == b"AFTER ALL"
    writer.close()


async def test_who_has_said_nothing_when_the_copy_is_loaded_goes_on_waiting(harness, pod):
    harness.apply(harness.route([], pod.port))
    _, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    await harness.until(lambda: harness.number("held") == 1)
    harness.apply(warm(harness, pod, listen=harness.port()))
    assert harness.number("held") == 1
    assert harness.number("demand") == 0
    writer.close()


async def test_where_a_connect_is_demand_the_copy_gets_it_at_once(harness, pod):
    harness.apply(warm(harness, pod, wakeOn="Connection"))
    _, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    await harness.until(lambda: harness.number("active") == 1)
    assert harness.number("demand") == 1
    writer.close()


async def test_a_usable_pod_goes_before_the_copy(harness, pod, ordinary):
    table = warm(harness, pod)
    table["endpoints"] += [{"address": "127.0.0.3", "ready": True}]
    harness.apply(table)
    assert [await ask(harness.port()) for _ in range(5)] == [b"HELLO"] * 5
    assert (pod.connections, ordinary.connections) == (0, 5)
    assert harness.number("demand") == 0


async def test_a_pod_that_is_on_its_way_leaves_the_clients_to_the_copy(harness, pod, ordinary):
    ordinary.ready = False
    table = warm(harness, pod)
    table["endpoints"] += [{"address": "127.0.0.3", "ready": False}]
    harness.apply(table)
    assert await ask(harness.port()) == b"HELLO"
    assert (pod.connections, ordinary.connections) == (1, 0)
    assert harness.number("demand") == 0, "the operator has answered with a pod"


async def test_clients_that_wait_get_a_copy_as_soon_as_it_is_loaded(harness, pod):
    pod.ready = False
    harness.apply(warm(harness, pod, ready=False))
    waiting = asyncio.create_task(ask(harness.port()))
    await harness.until(lambda: len(pod.writers) > 3)
    assert not waiting.done()
    pod.ready = True
    assert await waiting == b"HELLO"
    assert harness.number("demand") == 1


async def test_a_copy_that_died_sends_its_clients_back_to_wait(harness, pod):
    dead = {**warm(harness, pod), "endpoints": [{"address": "127.0.0.2", "ready": True, "warm": True}]}
    harness.apply(dead)
    waiting = asyncio.create_task(ask(harness.port()))
    await harness.until(lambda: harness.number("dialFailures") >= 1)
    assert harness.number("held") == 1
    harness.apply(harness.route([("127.0.0.1", True)], pod.port, harness.port()))
    assert await waiting == b"HELLO"
    assert harness.number("demand") == 0
