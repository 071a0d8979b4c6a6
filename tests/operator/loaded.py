"""A model of the small cluster under load: its pods' counters move as the load says."""

from collections.abc import Mapping
from typing import Any

from longshore.plan.telemetry import PodReading, Telemetry
from longshore.settings import Settings

from tests.operator.world import SPEC, World, is_aside

TICK = 2.0


class Loaded:
    """A World whose pods share `rate` requests per second, each run taking `run` seconds."""

    def __init__(
        self,
        scaling: Mapping[str, Any],
        rate: float = 0.0,
        run: float = 0.02,
        settings: Settings | None = None,
    ) -> None:
        self.world = World({**SPEC, "scaling": dict(scaling)}, settings)
        self.rate, self.run = rate, run
        self.counted: dict[str, list[float]] = {}
        self.world.settle()

    def pods(self) -> list[str]:
        """Give the names of the ready pods."""
        prefix = f"{self.world.name}-"
        return [
            name
            for name in self.world.names("Pod")
            if name.startswith(prefix)
            and self.world._is_ready(self.world.objects["Pod", name])
            and not is_aside(self.world.objects["Pod", name])
        ]

    def replicas(self) -> int:
        """Give the pods that are wanted."""
        name = self.world.name
        return sum(
            obj["spec"]["replicas"]
            for (kind, _), obj in self.world.objects.items()
            if kind == "Deployment"
            and obj["metadata"]["labels"]["longshore.dev/name"] == name
            and not is_aside(obj)
        )

    def tick(self, times: int = 1) -> None:
        """Pass time under load, tell the operator, let it and the controllers work."""
        world = self.world
        key = (world.namespace, world.name)
        for _ in range(times):
            world.now += TICK
            pods = self.pods()
            for name in pods:
                counts = self.counted.setdefault(name, [0.0, 0.0])
                done = self.rate * TICK / len(pods)
                counts[0] += done
                counts[1] += done * self.run
            world.senses.telemetry[key] = Telemetry(world.now, tuple(self._reading(name) for name in pods))
            world.reconcile()
            world.work()
            world.reconcile()

    def _reading(self, name: str) -> PodReading:
        pod = self.world.objects["Pod", name]
        requests, compute = self.counted[name]
        values = {
            "requests": requests,
            "succeeded": requests,
            "executions": requests,
            "rows": requests,
            "compute_seconds": compute,
            "queue_seconds": 0.0,
            "slow": 0.0,
            "pending": 0.0,
            "in_flight": self.rate * self.run / len(self.pods()),
            "open_streams": 0.0,
        }
        revision = pod["metadata"]["labels"]["longshore.dev/revision"]
        return PodReading(name, pod["metadata"]["uid"], revision, self.world.now, "0", values)
