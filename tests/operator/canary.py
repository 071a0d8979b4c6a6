"""A canary under load in the small cluster: its pods count requests, and others are asked about it."""

from collections.abc import Callable, Mapping
from typing import Any

from longshore.plan.analysis.questions import Answers, Questions
from longshore.plan.telemetry import PodReading, Telemetry

from tests.operator.world import SPEC, World

Object = dict[str, Any]
Predict = Callable[[str, int], Mapping[str, Mapping[int, int]]]
NEW = {"uri": "https://models.example/digits-2.onnx"}


class Canary:
    """Brings a first revision up, then a second one, and lets time go on by looks of two seconds."""

    def __init__(self, rollout: Mapping[str, Any], requests: int = 40, **spec: Any) -> None:
        self.world = World({**SPEC, "rollout": dict(rollout), **spec})
        self.requests = requests
        self.errors: dict[str, float] = {}
        """Share of requests that a revision answers with an error."""
        self.unheard: set[str] = set()
        """Revisions whose pods do not answer when they are asked for their counters."""
        self.predict: Predict = lambda revision, count: {}
        self.extra: dict[str, Mapping[str, float]] = {}
        """More counters of a revision, per request."""
        self.differing: float | None = None
        """Share of answers to copies that differ; None: the pods do not copy, whatever they are asked."""
        self.unanswered = False
        """Copies are sent, and nobody answers them."""
        self.unmirrored = ""
        """Why they do not."""
        self._counted: dict[str, int] = {}
        self._copied: dict[str, float] = {}
        if "route" in spec:
            self.world.gateway_api, self.world.accepts = True, {"HTTPRoute", "GRPCRoute"}
        self.world.settle()
        self.stable = self.world.status["stable"]["revision"]
        self.world.edit(model=NEW)
        self.begin()

    def begin(self) -> None:
        """Go on until the new revision is judged."""
        for _ in range(60):
            self.world.reconcile()
            self.world.work()
            self.world.now += 0.5
            if self.phase == "Stepping":
                self.world.reconcile()
                return
        raise AssertionError(self.world.status)

    @property
    def key(self) -> tuple[str, str]:
        return self.world.namespace, self.world.name

    @property
    def canary(self) -> str | None:
        found: Object | None = self.world.status.get("canary")
        return found["revision"] if found else None

    @property
    def phase(self) -> str:
        found: str = self.world.status["rollout"]["state"].get("phase", "Idle")
        return found

    @property
    def questions(self) -> Questions | None:
        """What the plan wants to ask now."""
        return self.world.plan().questions

    def look(self, answers: Answers | None = None, warm: float = 60.0) -> None:
        """One look: the pods answered requests and told so; others may have answered too."""
        world = self.world
        world.now += 2.0
        readings, unanswered = [], {}
        for pod in world.observed().pods:
            if pod.revision is None or pod.job is not None:
                continue
            if pod.revision in self.unheard:
                unanswered[pod.name] = "no route to host"
                continue
            count = self._counted[pod.name] = self._counted.get(pod.name, 0) + self.requests
            values = {"requests": count, "errors": int(count * self.errors.get(pod.revision, 0.0))}
            values |= {name: int(count * rate) for name, rate in self.extra.get(pod.revision, {}).items()}
            values |= self._copies(pod.name, pod.revision)
            readings.append(
                PodReading(
                    pod.name,
                    pod.name,
                    pod.revision,
                    world.now,
                    "0",
                    values,
                    self.predict(pod.revision, count),
                    self.unmirrored,
                )
            )
        world.senses.telemetry[self.key] = Telemetry(world.now, tuple(readings), unanswered)
        if answers is not None:
            world.senses.answers[self.key] = answers
        world.reconcile()
        world.work()

    def _copies(self, pod: str, revision: str) -> dict[str, float]:
        """What a pod tells of copies that it was asked to send."""
        wanted = self.world.senses.mirroring.get(self.key)
        if self.unanswered and wanted is not None and wanted.stable == revision:
            copied = self._copied[pod] = self._copied.get(pod, 0.0) + self.requests
            return {"mirroring": wanted.share, "compared": 0, "uncopied": int(copied)}
        if self.differing is None or wanted is None or wanted.stable != revision:
            return {}
        copied = self._copied[pod] = self._copied.get(pod, 0.0) + wanted.share * self.requests
        return {
            "mirroring": wanted.share,
            "compared": int(copied),
            "differing": int(copied * self.differing),
        }

    def looks(self, number: int) -> None:
        """So many looks."""
        for _ in range(number):
            self.look()
