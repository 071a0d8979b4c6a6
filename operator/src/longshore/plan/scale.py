"""The stage Scaled: how many pods the present load needs, from the pods' own counters."""

from dataclasses import dataclass

from longshore.api import Spec
from longshore.api.scaling import Engine
from longshore.plan.scaling import (
    Observation,
    PodSample,
    PodStart,
    RevisionLoad,
    policy_of,
    step,
)
from longshore.plan.state import Observed, Scaled
from longshore.plan.telemetry import PodReading, Telemetry


@dataclass(frozen=True)
class ScaleStage:
    """Pods for the whole load; `scaled` is remembered until the next plan, None where nothing scales."""

    replicas: int
    scaled: Scaled | None = None
    reason: str = ""
    problem: str = ""

    @property
    def listens(self) -> bool:
        """Tell whether the pods' counters are needed."""
        return self.scaled is not None


def decide(observed: Observed, spec: Spec, stable: str | None) -> ScaleStage:
    """Decide how many pods carry the whole load.

    A fixed number, and an autoscaler that writes `serving.replicas`, go before Longshore's own engine.
    """
    if spec.serving.replicas is not None:
        return ScaleStage(spec.serving.replicas)
    waiting = observed.activators.waiting if observed.activators else None
    low = spec.scaling.min if waiting is not None else max(spec.scaling.min, 1)
    high = max(spec.scaling.ceiling, low)
    if spec.scaling.engine is not Engine.BUILTIN or high <= low or stable is None:
        return ScaleStage(max(low, 1))
    standing = observed.deployment(stable)
    current = min(max(standing.replicas if standing else low, low), high)
    before = observed.scaled or Scaled()
    telemetry = observed.telemetry
    woken = current == 0 and waiting is not None and waiting.demand > 0
    if not woken and (telemetry is None or telemetry.at <= before.looked_at):
        return ScaleStage(before.replicas if before.replicas is not None else current, before, before.reason)
    pods = [pod for pod in observed.pods if pod.revision and pod.job is None and not pod.deleting]
    heard = telemetry or Telemetry()
    now = max(heard.at, observed.now) if woken else heard.at
    seen = Observation(
        now=now,
        revisions=(
            RevisionLoad(
                name=stable,
                replicas=current,
                ready=sum(pod.ready for pod in pods if pod.revision == stable),
            ),
        ),
        samples=tuple(_sample(reading) for reading in heard.readings),
        ready_pods=frozenset(pod.name for pod in pods if pod.ready),
        starts=tuple(PodStart(p.name, p.created, p.ready_since) for p in pods if p.ready_since is not None),
        waiting=waiting,
    )
    policy = policy_of(spec)
    state, decision = step(policy, before.state, seen)
    replicas = min(max(decision.total, low), high)
    reason = decision.reason if replicas != current else before.reason
    scaled = Scaled(state, replicas, now, reason)
    return ScaleStage(replicas, scaled, reason, "; ".join(decision.problems) if decision.held else "")


def _sample(reading: PodReading) -> PodSample:
    values = reading.values
    return PodSample(
        pod=reading.pod,
        revision=reading.revision,
        at=reading.at,
        requests=values.get("requests"),
        succeeded=values.get("succeeded"),
        executions=values.get("executions"),
        rows=values.get("rows"),
        queue_seconds=values.get("queue_seconds"),
        compute_seconds=values.get("compute_seconds"),
        request_seconds=values.get("request_seconds"),
        slow=values.get("slow"),
        cpu_seconds=values.get("cpu_seconds"),
        pending=values.get("pending"),
        in_flight=values.get("in_flight"),
        open_streams=values.get("open_streams"),
        gpu_percent=values.get("gpu_percent"),
        workers=values.get("workers") or None,
    )
