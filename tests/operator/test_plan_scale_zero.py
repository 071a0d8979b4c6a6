"""To zero and back: the activators stand in before the last pod goes, whatever clocks and processes do."""

import pytest
from longshore.plan.zero import SETTLE

from tests.operator.sleeper import Sleeper

SLICE = ("EndpointSlice", "digits-activator")


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


def test_the_activators_stand_in_before_the_last_pod_goes_and_leave_when_one_answers(
    sleeper: Sleeper,
) -> None:
    world = sleeper.world
    sleeper.tick_until(lambda: SLICE in world.objects)
    entered = world.now
    assert sleeper.replicas() == 1
    sleeper.sleep()
    assert world.now - entered >= SETTLE
    assert world.condition("Ready")["status"] == "True"
    assert "-> 0" in world.condition("Scaled")["message"]
    sleeper.demand(2)
    sleeper.tick_until(lambda: sleeper.replicas() > 0, 3)
    sleeper.tick()
    assert SLICE not in world.objects


@pytest.mark.parametrize("jump", [-86400.0, -3600.0, 3600.0, 86400.0 * 400])
def test_a_clock_that_jumps_while_they_enter_keeps_the_last_pod_no_longer(
    sleeper: Sleeper, jump: float
) -> None:
    sleeper.tick_until(lambda: SLICE in sleeper.world.objects)
    sleeper.world.now += jump
    sleeper.tick_until(lambda: sleeper.replicas() == 0, 40)


def test_without_an_activator_the_last_pod_stays(sleeper: Sleeper) -> None:
    sleeper.hear(False)
    sleeper.tick(60)
    assert sleeper.replicas() == 1
