"""Reads everything a decision needs into one `Observed` value, from what the watches have told."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from longshore.api import Status
from longshore.api.parse import SpecError, parse_spec
from longshore.budgets import budget_of
from longshore.index import Index, Key
from longshore.plan.diagnose import OUT_OF_MEMORY
from longshore.plan.route import ROUTE_CONFLICT, claims
from longshore.plan.state import (
    ActivatorView,
    DeploymentView,
    ForeignAutoscaler,
    JobView,
    Observed,
    PodView,
    RouteClaim,
    Terminated,
)
from longshore.resources.deployment import Provenance
from longshore.resources.kinds import HORIZONTAL_POD_AUTOSCALER
from longshore.resources.kueue import QUEUE_NAME
from longshore.resources.names import (
    ARTIFACT,
    ATTEMPT,
    CHOSEN,
    COMPONENT,
    GPU,
    IMAGE,
    KEY,
    MEASURE,
    MODEL_URI,
    RETRY,
    REVISION,
    RUNTIME,
    SERVER,
    TEMPLATE,
    WARM,
    Owner,
)
from longshore.senses import Senses
from longshore.settings import Settings

Object = Mapping[str, Any]


def observe(
    index: Index, key: Key, settings: Settings, now: float, senses: Senses | None = None
) -> Observed | None:
    """Give what a plan rests on; None when the ModelDeployment does not exist.

    Children of another ModelDeployment that had the same name are left out: their owner is gone, and the
    garbage collector has them.
    """
    root = index.root(key)
    if root is None:
        return None
    metadata = root["metadata"]
    owner = Owner(key[0], key[1], metadata["uid"])
    everything = index.children(key)
    children = {place: obj for place, obj in everything.items() if _is_of(obj, owner)}
    by_kind: dict[str, list[Object]] = {}
    for (kind, _), obj in sorted(children.items()):
        by_kind.setdefault(kind, []).append(obj)
    pods = [pod_view(obj) for obj in by_kind.get("Pod", ())]
    return Observed(
        now=now,
        settings=settings,
        owner=owner,
        generation=metadata.get("generation", 0),
        created=timestamp(metadata.get("creationTimestamp")) or 0.0,
        deleted=timestamp(metadata.get("deletionTimestamp")),
        finalizers=tuple(metadata.get("finalizers", ())),
        annotations=metadata.get("annotations", {}),
        spec=root.get("spec", {}),
        status=_known_status(root.get("status", {})),
        labels=metadata.get("labels", {}),
        deployments=tuple(
            deployment_view(obj) for obj in by_kind.get("Deployment", ()) if _component(obj) == SERVER
        ),
        jobs=tuple(map(job_view, by_kind.get("Job", ()))),
        pods=tuple(pod for pod in pods if pod.component not in (WARM, MEASURE)),
        warm=tuple(pod for pod in pods if pod.component == WARM),
        measuring=tuple(pod for pod in pods if pod.component == MEASURE),
        measuring_since={
            obj["metadata"]["name"]: timestamp(obj["metadata"].get("creationTimestamp")) or now
            for obj in by_kind.get("Deployment", ())
            if _component(obj) == MEASURE
        },
        measured=senses.measured.get(key) if senses else None,
        live={place: obj for place, obj in children.items() if place[0] != "Pod"},
        other_routes=_other_routes(index, key) if root.get("spec", {}).get("route") else (),
        shared_artifacts=_shared_artifacts(index, key) if "deletionTimestamp" in metadata else frozenset(),
        installed=frozenset(index.installed),
        telemetry=senses.telemetry.get(key) if senses else None,
        analysed=senses.analysed.get(key) if senses else None,
        scaled=senses.scaled.get(key) if senses else None,
        activators=_activators(root, key, senses),
        preflight=senses.preflight.get(key) if senses else None,
        exercising=senses is not None and key in senses.exercising,
        answers=senses.answers.get(key) if senses else None,
        autoscalers=tuple(sorted(_foreign_autoscalers(everything, children))),
        budget=budget_of(index, key, senses),
        external=senses.external.get(key, {}) if senses else {},
        gpu_nodes=senses.gpu_nodes if senses else None,
    )


def _component(obj: Object) -> str | None:
    component: str | None = obj["metadata"].get("labels", {}).get(COMPONENT)
    return component


def _known_status(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the status where it is one; what another version wrote and this one cannot read is begun anew."""
    try:
        Status.model_validate(raw)
    except ValidationError:
        return {}
    return raw


def _activators(root: Object, key: Key, senses: Senses | None) -> ActivatorView | None:
    """Ask what the activators know of a model, only where it may go to zero: asking takes a port."""
    if senses is None or senses.activators is None or root.get("spec", {}).get("scaling", {}).get("min") != 0:
        return None
    return senses.activators(key)


def timestamp(text: str | None) -> float | None:
    """Convert an RFC 3339 time to seconds since the epoch."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC).timestamp() if text else None


def _is_of(obj: Object, owner: Owner) -> bool:
    """Pods belong through their Job or ReplicaSet; everything else names the owner itself."""
    if obj["kind"] == "Pod":
        return True
    return any(reference["uid"] == owner.uid for reference in obj["metadata"].get("ownerReferences", ()))


def _foreign_autoscalers(
    everything: Mapping[tuple[str, str], Object], ours: Mapping[tuple[str, str], Object]
) -> Iterable[ForeignAutoscaler]:
    for (kind, name), obj in everything.items():
        if kind == HORIZONTAL_POD_AUTOSCALER.kind and (kind, name) not in ours:
            target = obj.get("spec", {}).get("scaleTargetRef", {})
            yield ForeignAutoscaler(name, target.get("kind", ""), target.get("name", ""))


def deployment_view(obj: Object) -> DeploymentView:
    """Read a Deployment."""
    metadata, status = obj["metadata"], obj.get("status", {})
    notes = metadata.get("annotations", {})
    settled = status.get("observedGeneration", 0) >= metadata.get("generation", 1)
    return DeploymentView(
        name=metadata["name"],
        uid=metadata["uid"],
        revision=metadata.get("labels", {}).get(REVISION, ""),
        created=timestamp(metadata.get("creationTimestamp")) or 0.0,
        replicas=obj.get("spec", {}).get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        current=status.get("replicas", 0),
        settled=settled,
        deleting="deletionTimestamp" in metadata,
        template=_template(notes.get(TEMPLATE)),
        provenance=Provenance(
            model=notes.get(MODEL_URI, ""),
            artifact=notes.get(ARTIFACT),
            image=notes.get(IMAGE),
            chosen=notes.get(CHOSEN),
            runtime=notes.get(RUNTIME),
            gpu=notes.get(GPU),
        ),
        conditions=tuple(
            (c["type"], c["status"], c.get("reason", ""), c.get("message", ""))
            for c in status.get("conditions", ())
        ),
    )


def _template(text: str | None) -> Mapping[str, Any] | None:
    """Read the pod template as it was first built; None where the annotation is gone or was edited."""
    try:
        template = json.loads(text or "null")
    except ValueError:
        return None
    containers = template.get("spec", {}).get("containers") if isinstance(template, dict) else None
    return template if containers else None


def job_view(obj: Object) -> JobView:
    """Read a Job."""
    metadata, status = obj["metadata"], obj.get("status", {})
    ended = {c["type"]: c for c in status.get("conditions", ()) if c["status"] == "True"}
    failed = ended.get("Failed")
    notes = metadata.get("annotations", {})
    finished = (failed or ended.get("Complete") or {}).get("lastTransitionTime")
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        key=metadata.get("labels", {}).get(KEY, ""),
        attempt=int(notes.get(ATTEMPT, "1")),
        retry=notes.get(RETRY),
        active=status.get("active", 0),
        succeeded="Complete" in ended,
        failed=failed is not None,
        reason=failed.get("reason", "") if failed else "",
        message=failed.get("message", "") if failed else "",
        finished=timestamp(finished),
        deleting="deletionTimestamp" in metadata,
        # The condition of one that failed meanwhile stays, whatever its spec says then.
        suspended=obj.get("spec", {}).get("suspend") is True or "Suspended" in ended,
        queue=metadata.get("labels", {}).get(QUEUE_NAME),
    )


def pod_view(obj: Object) -> PodView:
    """Read a pod."""
    metadata, status = obj["metadata"], obj.get("status", {})
    labels = metadata.get("labels", {})
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    scheduled, ready = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    is_ready = ready.get("status") == "True"
    return PodView(
        name=metadata["name"],
        revision=labels.get(REVISION),
        component=labels.get(COMPONENT),
        runtime=labels.get(RUNTIME),
        job=labels.get("job-name") or labels.get("batch.kubernetes.io/job-name"),
        phase=status.get("phase", ""),
        ready=is_ready,
        ip=status.get("podIP"),
        deleting="deletionTimestamp" in metadata,
        created=timestamp(metadata.get("creationTimestamp")) or 0.0,
        ready_since=timestamp(ready.get("lastTransitionTime")) if is_ready else None,
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        unschedulable=scheduled.get("message", "") or "no node fits" if unschedulable else "",
        unschedulable_since=timestamp(scheduled.get("lastTransitionTime")) if unschedulable else None,
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
        waiting=tuple(_waiting(containers)),
        terminated=tuple(_terminated(containers, running=False)),
        ended_before=tuple(_terminated(containers, running=True)),
        restarts=sum(c.get("restartCount", 0) for c in containers),
        out_of_memory=any(_ended_by_memory(c) for c in containers),
        job_index=_job_index(metadata),
    )


def _job_index(metadata: Object) -> int:
    """Read what the Job controller notes on the pods of an Indexed Job."""
    text = metadata.get("annotations", {}).get("batch.kubernetes.io/job-completion-index", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _waiting(containers: Iterable[Object]) -> Iterable[tuple[str, str, str]]:
    for container in containers:
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            yield container["name"], waiting.get("reason", ""), waiting.get("message", "")


def _terminated(containers: Iterable[Object], running: bool) -> Iterable[Terminated]:
    """Give the last ends of the containers that run now, or of those that do not."""
    for container in containers:
        state = container.get("state", {})
        end = state.get("terminated") or container.get("lastState", {}).get("terminated")
        if end is not None and ("running" in state) is running:
            yield Terminated(
                container["name"], end.get("exitCode", 0), end.get("reason", ""), end.get("message", "")
            )


def _ended_by_memory(container: Object) -> bool:
    """Tell whether a container's latest end was the kernel's, for memory; it may run again."""
    ends = (container.get(state, {}).get("terminated") for state in ("state", "lastState"))
    return any(end is not None and end.get("reason") == OUT_OF_MEMORY for end in ends)


def _other_routes(index: Index, key: Key) -> tuple[RouteClaim, ...]:
    found = []
    for other, root in index.roots():
        if other == key or not root.get("spec", {}).get("route"):
            continue
        if "deletionTimestamp" in root["metadata"]:
            continue
        claim = _claim(index, other, root)
        if claim is not None:
            found.append(claim)
    return tuple(found)


def waiting_for_route(index: Index) -> list[Key]:
    """Give the ModelDeployments whose route another one had at the last look."""
    found = []
    for key, root in index.roots():
        conditions = root.get("status", {}).get("conditions", ())
        if any(c.get("reason") == ROUTE_CONFLICT for c in conditions):
            found.append(key)
    return found


def _claim(index: Index, key: Key, root: Object) -> RouteClaim | None:
    """Give what a ModelDeployment wants; parsed once a generation, for every other one asks."""
    metadata = root["metadata"]
    stamp = (metadata["uid"], metadata.get("generation", 0))
    known = index.claims.get(key)
    if known is not None and known[0] == stamp:
        return known[1]
    claim = None
    with contextlib.suppress(SpecError):
        route = parse_spec(root["spec"]).route
        if route is not None:
            created = timestamp(metadata.get("creationTimestamp")) or 0.0
            claim = RouteClaim(*key, created, claims(key[0], route))
    index.claims[key] = (stamp, claim)
    return claim


def _shared_artifacts(index: Index, key: Key) -> frozenset[str]:
    """Give the artifacts and images that any other ModelDeployment's revisions load."""
    found: set[str] = set()
    for other, root in index.roots():
        if other == key:
            continue
        found |= {r["artifact"] for r in root.get("status", {}).get("revisions", ()) if r.get("artifact")}
        for obj in index.children(other).values():
            notes = obj["metadata"].get("annotations", {})
            found |= {notes[note] for note in (ARTIFACT, IMAGE) if notes.get(note)}
    return frozenset(found)
