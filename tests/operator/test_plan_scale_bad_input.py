"""What a plan makes of load that cannot be seen, cannot be true, or was seen at another time."""

import math
from typing import Any

import pytest
from longshore.plan.telemetry import PodReading, Telemetry

from tests.operator.loaded import Loaded

SCALING: dict[str, Any] = {"min": 1, "max": 12, "metrics": [{"type": "RequestsPerSecond", "target": 30}]}
KEY = ("team", "digits")


def busy(scaling: dict[str, Any] | None = None, rate: float = 120.0) -> Loaded:
    """Give a model that has been under steady load for a while."""
    loaded = Loaded(scaling or SCALING, rate=rate)
    loaded.tick(60)
    assert loaded.replicas() > 2
    return loaded


@pytest.mark.parametrize("jump", [-86400.0, -3600.0, -3.0, 3600.0, 86400.0 * 400])
def test_a_clock_that_jumps_changes_no_number_and_load_is_followed_at_once_after(jump: float) -> None:
    loaded = busy()
    before = loaded.replicas()
    loaded.world.now += jump
    for _ in range(20):
        loaded.tick()
        assert loaded.replicas() == before
    loaded.rate *= 2
    loaded.tick(10)
    assert loaded.replicas() > before


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300])
def test_a_pod_that_lies_in_all_it_says_moves_the_number_by_one_at_most(lie: float) -> None:
    loaded = busy()
    before = loaded.replicas()
    honest = loaded._reading
    liar = loaded.pods()[0]

    def reading(name: str) -> PodReading:
        said = honest(name)
        if name != liar:
            return said
        values = dict.fromkeys(said.values, lie)
        return PodReading(said.pod, said.uid, said.revision, said.at, said.process, values)

    loaded._reading = reading  # type: ignore[method-assign]
    for _ in range(60):
        loaded.tick()
        assert before <= loaded.replicas() <= before + 1


def test_pods_that_fall_silent_hold_the_number_and_it_is_told() -> None:
    loaded = busy()
    before, world = loaded.replicas(), loaded.world
    for _ in range(120):
        world.now += 2.0
        world.senses.telemetry[KEY] = Telemetry(world.now, (), dict.fromkeys(loaded.pods(), "no answer"))
        world.reconcile()
        world.work()
        assert loaded.replicas() == before
    told = world.condition("Scaled")
    assert told["reason"] == "Held"
    assert "not lowered" in told["message"]
