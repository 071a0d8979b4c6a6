"""A small, exact world for the planner: pods that count what they are told to."""

from dataclasses import dataclass, field, replace

from longshore.api.scaling import Signal
from longshore.plan.scaling import (
    Decision,
    Observation,
    PodSample,
    Policy,
    RevisionLoad,
    State,
    Target,
    Waiting,
    step,
)

EPOCH = 1_750_000_000.0


def latency(objective: float = 0.1) -> tuple[Target, ...]:
    return (Target(Signal.LATENCY, seconds=objective),)


def policy(**more: object) -> Policy:
    base = Policy(min=1, max=20, targets=latency(), max_batch=1, counted_objective=0.1)
    return replace(base, **more)  # type: ignore[arg-type]


@dataclass
class Fleet:
    """`pods` ready pods that share `rate` evenly; each run takes `run` seconds and holds one request."""

    policy: Policy
    pods: int = 2
    run: float = 0.02
    now: float = EPOCH
    state: State = field(default_factory=State)
    rate: float = 0.0
    queue: float = 0.0
    counted: dict[str, list[float]] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    follow: bool = True
    waiting: Waiting | None = None
    floor: int = 0
    extra: dict[str, object] = field(default_factory=dict)

    def samples(self) -> tuple[PodSample, ...]:
        found = []
        for i in range(self.pods):
            name = f"pod-{i}"
            counts = self.counted.setdefault(name, [0.0, 0.0, 0.0])
            found.append(
                PodSample(
                    pod=name,
                    revision="a",
                    at=self.now,
                    requests=counts[0],
                    executions=counts[0],
                    rows=counts[0],
                    compute_seconds=counts[1],
                    queue_seconds=counts[2],
                    slow=0.0,
                    pending=0.0,
                    in_flight=self.rate * self.run / max(self.pods, 1),
                    open_streams=0.0,
                )
            )
        return tuple(found)

    def tick(self, seconds: float = 2.0, **changes: object) -> Decision:
        """Pass time, then look once; `changes` replace parts of the observation."""
        self.now += seconds
        for i in range(self.pods):
            counts = self.counted.setdefault(f"pod-{i}", [0.0, 0.0, 0.0])
            done = self.rate * seconds / self.pods
            counts[0] += done
            counts[1] += done * self.run
            counts[2] += done * self.queue
        return self.look(**changes)

    def look(self, **changes: object) -> Decision:
        seen = Observation(
            now=self.now,
            revisions=(RevisionLoad("a", self.pods, self.pods, floor=self.floor),),
            samples=self.samples(),
            ready_pods=frozenset(f"pod-{i}" for i in range(self.pods)),
            waiting=self.waiting,
        )
        seen = replace(seen, **{**self.extra, **changes})  # type: ignore[arg-type]
        self.state, decision = step(self.policy, self.state, seen)
        self.decisions.append(decision)
        if self.follow:
            for i in range(self.pods, decision.total):
                self.counted[f"pod-{i}"] = [0.0, 0.0, 0.0]
            self.pods = decision.total
        return decision

    def run_for(self, seconds: float, **changes: object) -> list[Decision]:
        return [self.tick(**changes) for _ in range(int(seconds / 2))]
