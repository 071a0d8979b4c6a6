"""A model of the small cluster that may go to zero, and activators that say what a test says."""

from collections.abc import Callable
from typing import Any

from longshore.plan.scaling import Waiting
from longshore.plan.state import ActivatorView
from longshore.settings import Settings

from tests.operator.loaded import Loaded
from tests.operator.world import is_aside

SLEEPY = {"min": 0, "max": 3, "idleAfter": "20s", "stableWindow": "10s"}


class Sleeper(Loaded):
    """A model that may go to zero, with activators that say what `waiting` says."""

    def __init__(self, **scaling: Any) -> None:
        self.waiting = Waiting(accepted=0.0)
        super().__init__({**SLEEPY, **scaling}, settings=Settings(activator_token="/token"))
        self.hear()

    def hear(self, heard: bool = True) -> None:
        """Let the activators be heard, or not; a restart forgets it."""
        self.world.senses.activators = lambda key: (
            ActivatorView(("10.0.0.7",), 20000, 20001, self.waiting) if heard else None
        )

    def sleep(self) -> None:
        """Pass time until no pod is wanted."""
        self.tick_until(lambda: self.replicas() == 0)
        self.tick(2)

    def tick_until(self, condition: Callable[[], bool], most: int = 120) -> None:
        """Pass time until something holds, at most so many ticks."""
        for _ in range(most):
            if condition():
                return
            self.tick()
        raise AssertionError("it never came")

    def demand(self, clients: int) -> None:
        """Let so many clients wait at the activators."""
        self.waiting = Waiting(demand=clients, active=clients, accepted=float(clients))

    @property
    def warm(self) -> dict[str, int]:
        """Give the Deployments of warm copies with the copies they want."""
        return {
            name: obj["spec"]["replicas"]
            for (kind, name), obj in self.world.objects.items()
            if kind == "Deployment" and is_aside(obj)
        }
