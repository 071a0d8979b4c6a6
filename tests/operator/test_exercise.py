"""Sample requests where traffic is too thin to judge by: sent to both revisions, counted, and told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from longshore.exercise import Exerciser
from longshore.plan.state import AskedPod, Exercise
from longshore.senses import Senses

from tests.operator.canary import Canary
from tests.server import models
from tests.server.harness import Server

KEY = ("team", "mlp")
ROLLOUT = {"steps": [{"weight": 50}], "analysis": {"syntheticLoad": {"requestsPerSecond": 5}}}


@pytest.fixture
async def exerciser() -> AsyncIterator[Exerciser]:
    made = Exerciser(Senses(), linger=0.5)
    yield made
    await asyncio.wait_for(made.close(), 5)


def test_too_little_traffic_asks_for_requests_says_so_and_ends_with_the_decision() -> None:
    canary = Canary(ROLLOUT, requests=0)
    canary.looks(10)
    wanted = canary.world.plan().exercise
    assert wanted is not None
    assert wanted.thin
    assert wanted.rate == 5
    assert wanted.canary
    assert wanted.stable
    told = [event for event in canary.world.events if event["reason"] == "SyntheticLoad"]
    assert "5 sample requests a second" in told[0]["message"]
    canary.world.senses.exercising.add(canary.key)
    before = len(canary.world.events)
    canary.looks(5)
    assert "SyntheticLoad" not in canary.world.told()[before:], "said once, while they are sent"
    canary.requests = 10
    canary.looks(300)
    assert canary.world.status["stable"]["revision"] != canary.stable, "what is sent decides"
    assert canary.world.plan().exercise is None


@pytest.mark.parametrize(("runtime", "port"), [("OnnxRuntime", 8080), ("Triton", 8003)])
def test_recorded_requests_are_looked_for_where_the_pods_of_a_runtime_give_them(
    runtime: str, port: int
) -> None:
    canary = Canary(ROLLOUT, requests=0, serving={"runtime": runtime})
    canary.looks(10)
    wanted = canary.world.plan().exercise
    assert wanted is not None
    assert {pod.samples_port for pod in (*wanted.canary, *wanted.stable)} == {port}


def test_a_rollout_to_another_runtime_asks_each_side_at_its_own_port() -> None:
    canary = Canary(ROLLOUT, requests=0)
    canary.world.edit(serving={"runtime": "Triton"})
    canary.begin()
    canary.looks(10)
    wanted = canary.world.plan().exercise
    assert wanted is not None
    assert {pod.samples_port for pod in wanted.canary} == {8003}
    assert {pod.samples_port for pod in wanted.stable} == {8080}


def test_enough_traffic_or_no_wish_sends_nothing() -> None:
    busy = Canary(ROLLOUT, requests=400)
    busy.looks(14)
    wanted = busy.world.plan().exercise
    assert wanted is None or not wanted.thin
    without = Canary({"steps": [{"weight": 50}]}, requests=0)
    without.looks(10)
    assert without.world.plan().exercise is None
    assert "SyntheticLoad" not in without.world.told()


async def test_both_revisions_answer_the_same_requests_until_they_are_not_needed(
    exerciser: Exerciser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    senses = exerciser._senses
    with Server(models.mlp(tmp_path / "mlp")) as server:
        monkeypatch.setattr("longshore.inference.HTTP_PORT", server.http_port)
        pods = (AskedPod("127.0.0.1", server.http_port),)

        def counted() -> tuple[float, float]:
            found = server.metrics()
            return tuple(  # type: ignore[return-value]
                sum(
                    value
                    for name, value in found.items()
                    if name.startswith(f"longshore_requests_{kind}total")
                )
                for kind in ("", "failed_")
            )

        wanted = Exercise(50.0, pods, pods, thin=True, mirror_key="")
        async with asyncio.timeout(30):
            while (await asyncio.to_thread(counted))[0] < 60:
                exerciser.exercise(KEY, wanted)
                await asyncio.sleep(0.02)
            assert KEY in senses.exercising
            while KEY in senses.exercising:
                exerciser.exercise(KEY, None)
                await asyncio.sleep(0.01)
        assert counted()[1] == 0, "no request is one that the model cannot answer"


async def test_it_goes_on_for_a_while_and_ends_by_itself_where_traffic_is_no_longer_thin(
    exerciser: Exerciser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(models.mlp(tmp_path / "mlp")) as server:
        monkeypatch.setattr("longshore.inference.HTTP_PORT", server.http_port)
        pods = (AskedPod("127.0.0.1", server.http_port),)
        thin = Exercise(50.0, pods, pods, thin=True, mirror_key="")
        enough = Exercise(50.0, pods, pods, thin=False, mirror_key="")
        exerciser.exercise(KEY, enough)
        assert KEY not in exerciser._senses.exercising
        exerciser.exercise(KEY, thin)
        async with asyncio.timeout(20):
            while KEY in exerciser._senses.exercising:
                exerciser.exercise(KEY, enough)
                await asyncio.sleep(0.02)


async def test_pods_that_cannot_be_asked_end_in_nothing(
    exerciser: Exerciser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore.inference.HTTP_PORT", 1)
    monkeypatch.setattr("longshore.exercise.RETRY", 0.05)
    pods = (AskedPod("127.0.0.1", 1),)
    for stable in ((), pods):
        exerciser.exercise(KEY, Exercise(5.0, pods, stable, thin=True, mirror_key=""))
        async with asyncio.timeout(20):
            while KEY in exerciser._senses.exercising:
                exerciser.exercise(KEY, Exercise(5.0, pods, stable, thin=False, mirror_key=""))
                await asyncio.sleep(0.01)
