"""An activator dies with clients in its hands: they see a reset at once, and nobody else notices."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from e2e.kit import activators
from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment, request_body
from e2e.kit.models import classifier
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]

GOOD = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
BODY = request_body({"x": np.eye(4, dtype=np.float32)[:1]})
CLIENTS = 24
"""Spread over two activators by chance: that all meet one has a probability of 1 in 8 million."""
GATE = "longshore.dev/scenario"
RESET_SECONDS = 5.0
"""A client of a dead activator that waits longer than this counts as one that hangs."""


async def ask(model: ModelDeployment, place: str) -> str:
    """Ask on a connection of its own; gives the outcome.

    A refused connection was in nobody's hands: for a second a Service may lead to what is no longer there.
    """
    head = f"POST /v2/models/{model.name}/infer HTTP/1.1\r\nHost: {model.name}\r\nConnection: close\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    try:
        async with asyncio.timeout(90):
            reader, writer = await _connected(place)
            writer.write(request)
            answer = await reader.read()
            writer.close()
            outcome = answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"
    except ConnectionError:
        outcome = "reset"
    except TimeoutError:
        outcome = "hang"
    return outcome


async def _connected(place: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_connection(place, 80)
        except ConnectionRefusedError:
            await asyncio.sleep(0.1)


@pytest.fixture
def gate(kube: Kube, own_namespace: str) -> Iterator[Callable[[bool], None]]:
    """Open or shut the only node that the model may run on; it is open at first and at the end."""
    node, *_ = kube("get", "nodes", "-o", "name").split()

    def move(is_open: bool) -> None:
        kube("label", node, f"{GATE}={own_namespace}" if is_open else f"{GATE}-", "--overwrite")

    move(True)
    try:
        yield move
    finally:
        move(False)


def test_a_killed_activator_resets_its_own_clients_and_the_others_are_answered(
    deployment: New, push: Push, kube: Kube, activator_token: Path, gate: Callable[[bool], None]
) -> None:
    model = deployment("relay")
    model.apply(
        {
            "model": {"uri": push("relay", model__onnx=GOOD)},
            "serving": {"podTemplate": {"nodeSelector": {GATE: model.namespace}}},
            "scaling": {"min": 0, "max": 1, "idleAfter": "5s", "stableWindow": "10s"},
        }
    )
    model.wait_ready()
    eventually(
        lambda: not kube.list("pods", model.namespace, f"longshore.dev/name={model.name}"),
        "the model goes to zero",
        90,
    )
    gate(False)
    place = model.address().removeprefix("http://")
    crew = activators.running(kube, model.namespace, activator_token)
    assert len(crew) == 2

    async def story() -> None:
        first = [asyncio.create_task(ask(model, place)) for _ in range(CLIENTS)]
        held = await until_held(CLIENTS)
        assert all(held), f"both activators hold clients: {held}"
        assert not any(task.done() for task in first)

        if not crew[0].kill():
            pytest.skip("the node is another machine, whose processes this one cannot kill")
        async with asyncio.timeout(RESET_SECONDS):
            lost = [await outcome for outcome in islice(asyncio.as_completed(first), held[0])]
        assert Counter(lost) == {"reset": held[0]}
        waiting = [task for task in first if not task.done()]
        assert len(waiting) == held[1] == await crew[1].held(model)

        # It is started again by its node and told its routes anew; until then the other serves alone.
        second = [asyncio.create_task(ask(model, place)) for _ in range(CLIENTS)]
        await until_held(held[1] + CLIENTS)
        gate(True)
        answers = Counter(task.result() for task in (await asyncio.wait([*waiting, *second]))[0])
        assert answers == {"200": held[1] + CLIENTS}

    async def until_held(count: int) -> list[int]:
        deadline = time.monotonic() + 30
        while True:
            held = [await one.held(model) for one in crew]
            if sum(held) == count:
                return held
            assert time.monotonic() < deadline, f"{count} clients are held: {held} after 30 s"
            await asyncio.sleep(0.05)

    asyncio.run(story())
    assert asyncio.run(ask(model, place)) == "200"
