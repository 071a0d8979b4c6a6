"""Killed between any two writes of a whole life, the operator ends in the same place."""

from typing import Any

from tests.operator.world import SPEC, KilledError, World

GOOD: dict[str, Any] = {
    "outcome": "Succeeded",
    "artifact": f"oci://localhost:5000/longshore@sha256:{'b' * 64}",
    "artifactSha256": "b" * 64,
    "chosen": "dynamic-int8",
}
FIRST: dict[str, Any] = {**SPEC, "optimize": {}, "serving": {"replicas": 2}}


def live(world: World) -> None:
    """Optimize, serve, change the revision, go back, scale, lose a child."""
    world.settle()
    if not any(job.get("status") for job in world.jobs()):
        world.end_job(GOOD)
    world.settle()
    for number, serving in enumerate(
        ({"replicas": 2, "batching": {"maxSize": 4}}, {"replicas": 2}, {"replicas": 3})
    ):
        if world.root["metadata"]["generation"] <= number + 1:
            world.edit(serving=serving)
        world.settle()
    world.vanish("Service", "digits")
    world.settle()


def test_killed_between_any_two_writes_it_ends_in_the_same_place() -> None:
    undisturbed = World(FIRST)
    live(undisturbed)
    wanted, total = undisturbed.end_state(), len(undisturbed.writes)
    assert undisturbed.condition("Ready")["status"] == "True"
    assert total > 25
    for number in range(total):
        world = World(FIRST)
        world.kill_at = number
        try:
            live(world)
        except KilledError:
            world.kill_at = None
            world.restart()
            live(world)
        assert world.end_state() == wanted, f"killed before write {number}"
        assert world.condition("Ready")["status"] == "True"
        assert len(world.events) == len({event["metadata"]["name"] for event in world.events})
