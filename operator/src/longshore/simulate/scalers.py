"""What decides the number of simulated pods: Longshore's planner, an HPA, KEDA, or nobody.

Sources of the foreign algorithms and their defaults:
- HPA: https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/ (sync 15 s,
  tolerance 10 %, pods not yet ready count as idle when scaling up, scale-down stabilized over 300 s,
  scale-up by 4 pods or 100 % per 15 s) with metrics 15 s old on average.
- KEDA: https://keda.sh/docs/latest/reference/scaledobject-spec/ (pollingInterval 30 s, cooldownPeriod
  300 s, an HPA on the metric between one and max).
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

from longshore.plan.scaling import (
    Observation,
    PodSample,
    PodStart,
    Policy,
    RevisionLoad,
    State,
    Waiting,
    step,
)
from longshore.simulate.pods import SimulatedPod


@dataclass(frozen=True)
class View:
    """What a scaler sees of the simulation."""

    now: float
    pods: tuple[SimulatedPod, ...]
    """Pods that are wanted, ready or not."""
    held: int
    """Requests held by the activator."""
    arrivals: int
    """Requests since the last look."""


class Scaler(Protocol):
    """Decides every `interval` seconds; `holds` says whether an activator waits at zero."""

    name: str
    interval: float
    holds: bool

    def decide(self, view: View) -> tuple[int, str]:
        """Give the number of pods wanted and the reason."""
        ...


class Fixed:
    """A number that never changes."""

    holds = False
    interval = 60.0

    def __init__(self, pods: int) -> None:
        self.name = f"Fixed {pods}"
        self._pods = pods

    def decide(self, view: View) -> tuple[int, str]:
        """Give the number."""
        return self._pods, "fixed"


class Builtin:
    """Longshore's planner, fed with the pods' counters as the operator feeds it."""

    name = "Builtin"
    holds = True
    interval = 2.0

    def __init__(self, policy: Policy, epoch: float = 1_750_000_000.0) -> None:
        self._policy = policy
        self._state = State()
        self._epoch = epoch

    def decide(self, view: View) -> tuple[int, str]:
        """Take one step of the planner."""
        now = self._epoch + view.now
        ready = [pod for pod in view.pods if pod.ready(view.now)]
        seen = Observation(
            now=now,
            revisions=(RevisionLoad("simulated", len(view.pods), len(ready)),),
            samples=tuple(self._sample(pod, view.now) for pod in ready),
            ready_pods=frozenset(pod.name for pod in ready),
            starts=tuple(
                PodStart(pod.name, self._epoch + pod.created, self._epoch + pod.ready_at) for pod in ready
            ),
            waiting=Waiting(demand=view.held),
        )
        self._state, decision = step(self._policy, self._state, seen)
        return decision.total, decision.reason

    def _sample(self, pod: SimulatedPod, now: float) -> PodSample:
        return replace(pod.sample(now), at=self._epoch + now)


@dataclass(frozen=True)
class HpaSettings:
    """An HPA's knobs."""

    min: int
    max: int
    cpu_percent: float = 80.0
    stabilization: float = 300.0
    tolerance: float = 0.1
    scrape: float = 15.0


class _HpaCore:
    """The part that every HPA shares: tolerance, rate limits, stabilization."""

    def __init__(self, settings: HpaSettings) -> None:
        self._settings = settings
        self._history: deque[tuple[float, int]] = deque()

    def limit(self, now: float, current: int, wanted: int) -> int:
        """Apply bounds, scale-up policy and scale-down stabilization."""
        settings = self._settings
        wanted = min(max(wanted, settings.min, 1), settings.max)
        self._history.append((now, wanted))
        while self._history and self._history[0][0] < now - settings.stabilization:
            self._history.popleft()
        if wanted > current:
            return min(wanted, max(current * 2, current + 4), settings.max)
        return min(current, max(value for _, value in self._history))


class Hpa:
    """autoscaling/v2 on CPU utilization."""

    holds = False
    interval = 15.0

    def __init__(self, settings: HpaSettings) -> None:
        self.name = f"HPA cpu {settings.cpu_percent:.0f} %"
        self._settings = settings
        self._core = _HpaCore(settings)
        self._cpu: dict[str, tuple[float, float]] = {}

    def decide(self, view: View) -> tuple[int, str]:
        """Take one sync."""
        current = len(view.pods)
        known: list[float] = []
        unready = 0
        for pod in view.pods:
            used = pod.cpu_seconds(view.now)
            before = self._cpu.get(pod.name)
            self._cpu[pod.name] = (view.now, used)
            if not pod.ready(view.now) or before is None:
                unready += 1
                continue
            known.append((used - before[1]) / (view.now - before[0]) * 100)
        if not known or current == 0:
            return self._core.limit(view.now, current, max(current, 1)), "no metrics: held"
        target = self._settings.cpu_percent
        ratio = sum(known) / len(known) / target
        wanted = current
        if abs(ratio - 1) > self._settings.tolerance:
            if ratio > 1 and unready:
                # Pods without metrics are taken as idle, which may cancel the scale-up.
                damped = sum(known) / (len(known) + unready) / target
                wanted = math.ceil(damped * (len(known) + unready)) if damped > 1.1 else current
            else:
                wanted = math.ceil(ratio * len(known)) + (unready if ratio > 1 else 0)
        limited = self._core.limit(view.now, current, wanted)
        return limited, f"CPU {sum(known) / len(known):.0f} %, target {target:.0f} %"


@dataclass(frozen=True)
class KedaSettings:
    """A ScaledObject's knobs, on a rate of requests from a Prometheus."""

    min: int
    max: int
    threshold: float
    """Requests per second and pod."""
    polling: float = 30.0
    cooldown: float = 300.0
    rate_window: float = 60.0


class Keda:
    """KEDA: polls to wake from zero, an HPA above."""

    holds = False
    interval = 15.0

    def __init__(self, settings: KedaSettings) -> None:
        self.name = f"KEDA {settings.threshold:.3g} rps"
        self._settings = settings
        self._core = _HpaCore(HpaSettings(max(settings.min, 1), settings.max))
        self._seen: deque[tuple[float, int]] = deque()
        self._active_at = 0.0
        self._polled = -1e9

    def decide(self, view: View) -> tuple[int, str]:
        """Take one sync of the HPA, and a poll when it is due."""
        settings = self._settings
        self._seen.append((view.now, view.arrivals))
        while self._seen and self._seen[0][0] <= view.now - settings.rate_window:
            self._seen.popleft()
        rate = sum(count for _, count in self._seen) / settings.rate_window
        if rate > 0:
            self._active_at = view.now
        current = len(view.pods)
        if settings.min == 0:
            if current == 0:
                if view.now - self._polled < settings.polling:
                    return 0, "waits for the next poll"
                self._polled = view.now
                return (1, "active") if rate > 0 else (0, "idle")
            if view.now - self._active_at >= settings.cooldown:
                return 0, "idle"
        wanted = math.ceil(rate / settings.threshold)
        if current and abs(rate / settings.threshold / current - 1) <= 0.1:
            wanted = current
        return self._core.limit(view.now, current, wanted), f"{rate:.3g} rps, target {settings.threshold:.3g}"
