"""The stage Scaled: how many pods the present load needs, from the pods' own counters."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from longshore.api import KIND, Spec
from longshore.api.rollout import Strategy
from longshore.api.scaling import Engine
from longshore.plan.diagnose import missing_pods
from longshore.plan.outcome import Problem
from longshore.plan.scaling import (
    Claim,
    Decision,
    Grant,
    Observation,
    PodSample,
    PodStart,
    RevisionLoad,
    Waiting,
    policy_of,
    recall,
    remember,
    step,
)
from longshore.plan.scaling.queries import MetricQuery, queries_of
from longshore.plan.state import Observed, Said, Scaled
from longshore.plan.telemetry import PodReading, Telemetry
from longshore.plan.warm import standing as warm_standing
from longshore.plan.zero import may_sleep
from longshore.resources.names import deployment_name

RETOLD = 30.0
"""Seconds for which a sentence stands while only its numbers move."""


@dataclass(frozen=True)
class ScaleStage:
    """Pods for the whole load; `scaled` is remembered until the next plan, None where nothing scales."""

    replicas: int
    scaled: Scaled | None = None
    reason: str = ""
    problem: str = ""
    limited: str = ""
    """Why the budget gives fewer pods than are wanted."""
    warm: int | None = None
    """Warm copies that the budget pays for at most; None: all that the spec asks for."""

    @property
    def listens(self) -> bool:
        """Tell whether the pods' counters are needed."""
        return self.scaled is not None


def decide(observed: Observed, spec: Spec, stable: str | None) -> ScaleStage:
    """Decide how many pods carry the whole load.

    A fixed number, and an autoscaler that writes `serving.replicas`, go before Longshore's own engine.
    """
    foreign = observed.autoscaler_of(stable) if stable is not None else None
    standing = observed.deployment(stable) if stable is not None else None
    if foreign is not None and standing is not None:
        return ScaleStage(standing.replicas)
    if spec.serving.replicas is not None:
        return ScaleStage(spec.serving.replicas)
    waiting = observed.activators.waiting if observed.activators else None
    low = spec.scaling.min if waiting is not None else max(spec.scaling.min, 1)
    high = max(spec.scaling.ceiling, low)
    shares = spec.scaling.budget is not None
    if spec.scaling.engine is not Engine.BUILTIN or stable is None or (high <= low and not shares):
        return ScaleStage(max(low, 1))
    least = min(low, 1) if shares else low
    current = min(max(standing.replicas if standing else low, least), high)
    before = observed.scaled or Scaled(recall(observed.status.get("scaling")))
    telemetry = observed.telemetry
    woken = current == 0 and waiting is not None and waiting.demand > 0
    if not woken and (telemetry is None or not _is_news(telemetry, before.looked_at, observed.now)):
        replicas = before.replicas if before.replicas is not None else current
        return ScaleStage(
            replicas, before, before.reason, before.problem.text, before.limited.text, before.warm
        )
    heard = telemetry or Telemetry()
    now = max(heard.at, observed.now) if woken else heard.at
    seen = _observation(
        observed, stable, current, heard, now, waiting, spec.rollout.strategy is Strategy.SHADOW
    )
    policy = policy_of(spec)
    state, decision = step(policy, before.state, seen)
    copies = _copies(observed, spec, stable, decision)
    claim, grant = _shared(observed, spec, stable, decision, copies)
    warm = None
    if grant is not None and claim is not None:
        # Pods that answer come before copies that wait.
        own = max(grant.pods - claim.floor, 0)
        warm = max(grant.pods - (claim.want - copies), 0)
        state, decision = step(policy, before.state, replace(seen, granted=own))
        # What answers goes on answering: only a model that may sleep can lose its last pod.
        low = min(low, max(own, least))
    replicas = min(max(decision.total, low), high)
    reason = decision.reason if replicas != current else before.reason
    limited = _steady(before.limited, grant.reason if grant is not None else "", now)
    problem = _steady(before.problem, "; ".join(decision.problems) if decision.held else "", now)
    scaled = Scaled(state, replicas, now, reason, limited, problem, claim, warm, decision.forecast)
    return ScaleStage(replicas, scaled, reason, problem.text, limited.text, warm)


def _is_news(telemetry: Telemetry, looked_at: float, now: float) -> bool:
    """Tell whether a round was heard after the last look, also where the clock went back between them."""
    return telemetry.at > looked_at or telemetry.at <= now < looked_at


def queries(observed: Observed, spec: Spec, load: ScaleStage, stable: str | None) -> tuple[MetricQuery, ...]:
    """Give what Prometheus shall be asked; nothing where nothing scales."""
    if load.scaled is None or stable is None:
        return ()
    readings = observed.telemetry.readings if observed.telemetry is not None else ()
    pods_tell = any("gpu_percent" in reading.values for reading in readings)
    name = deployment_name(observed.owner, stable)
    return queries_of(spec, observed.owner.namespace, name, observed.settings.prometheus, pods_tell)


def obstacle(observed: Observed, spec: Spec, stable: str | None) -> Problem | None:
    """Say what keeps the number of pods from being the one that is wanted: other writers, a full cluster."""
    if stable is None:
        return None
    foreign = observed.autoscaler_of(stable)
    if foreign is not None:
        return Problem(
            "ForeignAutoscaler",
            f"the HorizontalPodAutoscaler {foreign.name} is not Longshore's and writes the replicas of "
            f"{foreign.target}: its number stands and Longshore does not scale; delete it, or let its "
            f"scaleTargetRef name ModelDeployment {observed.owner.name}",
        )
    rival = next((a for a in observed.autoscalers if a.kind == KIND), None)
    if rival is not None and spec.scaling.engine is Engine.HPA:
        return Problem(
            "ForeignAutoscaler",
            f"the HorizontalPodAutoscaler {rival.name} scales this ModelDeployment, beside the one "
            "that scaling.engine HPA makes: delete it, or set scaling.engine to Builtin",
        )
    return missing_pods(observed, stable)


def memory(observed: Observed, load: ScaleStage) -> Mapping[str, Any] | None:
    """Give what status shall remember of the load; None where nothing scales."""
    if load.scaled is None:
        return None
    scaled = load.scaled
    return remember(observed.status.get("scaling"), scaled.state, observed.now, scaled.forecast)


def _observation(
    observed: Observed,
    stable: str,
    current: int,
    heard: Telemetry,
    now: float,
    waiting: Waiting | None,
    shadow: bool,
) -> Observation:
    pods = [pod for pod in observed.pods if pod.revision and pod.job is None and not pod.deleting]
    readings = heard.readings
    if shadow:
        # What gets copies only would count every request twice.
        pods = [pod for pod in pods if pod.revision == stable]
        readings = tuple(reading for reading in readings if reading.revision == stable)
    return Observation(
        now=now,
        revisions=(
            RevisionLoad(
                name=stable,
                replicas=current,
                ready=sum(pod.ready for pod in pods if pod.revision == stable),
            ),
        ),
        samples=tuple(_sample(reading) for reading in readings),
        ready_pods=frozenset(pod.name for pod in pods if pod.ready),
        starts=tuple(PodStart(p.name, p.created, p.ready_since) for p in pods if p.ready_since is not None),
        external=observed.external,
        waiting=waiting,
    )


def _copies(observed: Observed, spec: Spec, stable: str, decision: Decision) -> int:
    """Give the warm copies that are wanted: while no pod answers, or none is to answer."""
    answers = any(pod.ready and not pod.deleting for pod in observed.pods_of(stable))
    return spec.scaling.warm if may_sleep(spec) and not (answers and decision.total > 0) else 0


def _shared(
    observed: Observed, spec: Spec, stable: str, decision: Decision, copies: int
) -> tuple[Claim | None, Grant | None]:
    """Give what this model asks of its budget and what it gets; None while it gets what it asks for."""
    wish = spec.scaling.budget
    if wish is None:
        return None, None
    serving = observed.deployment(stable)
    # The last pod stays until a copy is loaded: for that long both count.
    last = min(serving.replicas, 1) if serving is not None and copies else 0
    beside = sum(d.replicas for d in observed.deployments if d.revision != stable and not d.deleting)
    claim = Claim(
        key=f"{observed.owner.namespace}/{observed.owner.name}",
        priority=wish.priority,
        cost=wish.cost,
        want=max(decision.total, last) + beside + copies,
        min=spec.scaling.min + beside,
        floor=beside,
        rate=decision.rate,
        curve=decision.curve,
        standing=sum(d.replicas for d in observed.deployments if not d.deleting) + warm_standing(observed),
    )
    return claim, observed.budget.grant(claim) if observed.budget is not None else None


def _steady(before: Said, text: str, now: float) -> Said:
    """Give what is said: found anew at each look, told anew when it begins, ends, or now and then."""
    if not text:
        return Said()
    # A sentence about a budget begins with the number of pods.
    same = before.text.partition(" ")[0] == text.partition(" ")[0]
    if same and 0 <= now - before.at < RETOLD:
        return before
    return Said(text, now)


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
