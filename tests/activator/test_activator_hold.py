"""From zero and back: what a client sees while no pod runs, and when one comes."""

import asyncio
import socket

import pytest

from tests.activator.conftest import Pod, ask, cut


async def test_burst_at_zero_loses_nothing_once_a_pod_answers(harness, pod):
    harness.apply(harness.route([], pod.port))
    waiting = [asyncio.create_task(ask(harness.port(), b"request %d" % i)) for i in range(200)]
    await harness.until(lambda: harness.number("demand") == 200)
    assert pod.connections == 0
    harness.apply(harness.route([("127.0.0.1", False)], pod.port, harness.port()))
    assert await asyncio.gather(*waiting) == [b"REQUEST %d" % i for i in range(200)]
    assert harness.number("held") == 0
    assert harness.number("refused") == 0
    await harness.until(lambda: harness.number("active") == 0)


async def test_a_pod_that_listens_but_is_not_ready_gets_nothing(harness, pod):
    pod.ready = False
    harness.apply(harness.route([("127.0.0.1", False)], pod.port))
    waiting = asyncio.create_task(ask(harness.port()))
    await harness.until(lambda: len(pod.writers) > 5)
    assert pod.connections == 0
    assert not waiting.done()
    pod.ready = True
    assert await waiting == b"HELLO"


async def test_tcp_readiness_needs_only_an_open_port(harness, pod):
    pod.ready = False
    harness.apply(harness.route([("127.0.0.1", False)], pod.port, readiness={"mode": "Tcp"}))
    assert await ask(harness.port()) == b"HELLO"


async def test_pod_that_appears_later_at_a_known_address_is_found(harness, free_port):
    harness.apply(harness.route([("127.0.0.1", False)], free_port))
    waiting = asyncio.create_task(ask(harness.port()))
    await harness.until(lambda: harness.number("demand") == 1)
    pod = await Pod().listen(port=free_port)
    try:
        assert await waiting == b"HELLO"
    finally:
        await pod.close()


async def test_client_that_says_nothing_and_leaves_is_no_demand(harness, pod):
    harness.apply(harness.route([], pod.port))
    _, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    await harness.until(lambda: harness.number("held") == 1)
    writer.close()
    await harness.until(lambda: harness.number("held") == 0)
    assert harness.number("demand") == 0
    assert harness.number("left") == 1


async def test_client_that_resets_while_held_is_forgotten_with_its_bytes(harness, pod):
    harness.apply(harness.route([], pod.port))
    _, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    writer.write(b"x" * 1000)
    await harness.until(lambda: harness.number("heldBytes") == 1000)
    cut(writer)
    await harness.until(lambda: harness.number("held") == 0)
    assert harness.activator.held_bytes == 0
    assert harness.number("demand") == 0


async def test_beyond_the_count_a_client_gets_a_reset(harness, pod):
    harness.apply(harness.route([], pod.port, limits={"maxHeld": 2}))
    kept = [asyncio.create_task(ask(harness.port())) for _ in range(2)]
    await harness.until(lambda: harness.number("held") == 2)
    with pytest.raises(ConnectionResetError):
        await ask(harness.port())
    assert harness.number("refused") == 1
    harness.apply(harness.route([("127.0.0.1", True)], pod.port, harness.port()))
    assert await asyncio.gather(*kept) == [b"HELLO", b"HELLO"]


async def test_total_bound_holds_over_models(make_harness, pod):
    harness = await make_harness(max_held=1)
    other = {**harness.route([], pod.port), "key": "team/other"}
    harness.apply(harness.route([], pod.port), other)
    kept = asyncio.create_task(ask(harness.port()))
    await harness.until(lambda: harness.number("held") == 1)
    with pytest.raises(ConnectionResetError):
        await ask(harness.port("team/other"))
    kept.cancel()


async def test_wait_ends_with_a_reset_when_its_time_is_over(harness, pod):
    harness.apply(harness.route([], pod.port, limits={"holdSeconds": 0.2}))
    with pytest.raises(ConnectionResetError):
        await ask(harness.port())
    assert harness.number("expired") == 1
    assert harness.activator.held == 0


async def test_bytes_of_a_held_client_are_bounded_and_arrive_whole(harness, pod):
    body = bytes(range(97, 123)) * 200_000
    harness.apply(harness.route([], pod.port, limits={"maxHeldBytes": 100_000}))
    waiting = asyncio.create_task(ask(harness.port(), body))
    await harness.until(lambda: harness.number("heldBytes") >= 100_000)
    assert harness.number("heldBytes") < 200_000
    harness.apply(harness.route([("127.0.0.1", True)], pod.port, harness.port()))
    assert await waiting == body.upper()


async def test_dead_pod_called_ready_sends_the_client_back_to_wait(harness, pod, free_port):
    harness.apply(harness.route([("127.0.0.2", True)], pod.port))
    waiting = asyncio.create_task(ask(harness.port()))
    await harness.until(lambda: harness.number("dialFailures") == 1)
    assert harness.number("held") == 1
    harness.apply(harness.route([("127.0.0.1", True)], pod.port, harness.port()))
    assert await waiting == b"HELLO"


async def test_removed_model_resets_waiting_clients_and_keeps_running_ones(harness, pod):
    harness.apply(harness.route([("127.0.0.1", True)], pod.port))
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port())
    writer.write(b"one")
    assert await reader.readexactly(3) == b"ONE"
    other = {**harness.route([], pod.port), "key": "team/other"}
    harness.apply(harness.route([("127.0.0.1", True)], pod.port, harness.port()), other)
    waiting = asyncio.create_task(ask(harness.port("team/other")))
    await harness.until(lambda: harness.number("held", "team/other") == 1)
    port = harness.port()
    harness.apply()
    with pytest.raises(ConnectionResetError):
        await waiting
    with pytest.raises(ConnectionRefusedError):
        await ask(port)
    writer.write(b"two")
    assert await reader.readexactly(3) == b"TWO"
    writer.close()


async def test_port_taken_by_someone_else_is_named_and_the_rest_is_served(harness, pod):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        bad = {**harness.route([], pod.port, number), "key": "team/other"}
        harness.apply(bad, harness.route([("127.0.0.1", True)], pod.port))
    errors = harness.activator.describe()["errors"]
    assert str(number) in errors["team/other"]
    assert "another port" in errors["team/other"]
    assert await ask(harness.port()) == b"HELLO"


async def test_two_models_can_exchange_their_ports(harness, pod):
    one = harness.route([("127.0.0.1", True)], pod.port)
    two = {**harness.route([], pod.port), "key": "team/other"}
    harness.apply(one, two)
    first, second = harness.port(), harness.port("team/other")
    harness.apply(
        harness.route([("127.0.0.1", True)], pod.port, second),
        {**harness.route([], pod.port, first), "key": "team/other"},
    )
    assert harness.activator.describe()["errors"] == {}
    assert await ask(second) == b"HELLO"


async def test_load_spreads_over_ready_pods(harness, pod):
    other = await Pod().listen("127.0.0.3", pod.port)
    harness.apply(harness.route([("127.0.0.1", True), ("127.0.0.3", True)], pod.port))
    open_ones = [await asyncio.open_connection("127.0.0.1", harness.port()) for _ in range(10)]
    for reader, writer in open_ones:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"X"
    assert (pod.connections, other.connections) == (5, 5)
    for _, writer in open_ones:
        writer.close()
    await other.close()
