"""Server-side apply of a Plan: all the writing I/O."""

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from longshore.changes import stamped, stands
from longshore.cluster import Cluster, ClusterError
from longshore.index import Index
from longshore.plan.outbox import outbox, urls_of
from longshore.plan.outcome import Notice, Plan
from longshore.plan.state import Observed
from longshore.resources.kinds import CHILDREN, EVENT, MODEL_DEPLOYMENT, kind_of
from longshore.resources.names import APPLIED
from longshore.status import build_status, says_more, transitions
from longshore.store import ArtifactStore, Kept

_KINDS = {kind.kind: kind for kind in CHILDREN}
_LOGGER = logging.getLogger(__name__)


async def apply_plan(
    cluster: Cluster, store: ArtifactStore, index: Index, observed: Observed, plan: Plan
) -> int:
    """Write what differs, in the plan's order; gives the number of writes.

    Every answer goes into the index at once, so that the next decision knows of it.
    """
    writes = 0
    owner = observed.owner
    key = (owner.namespace, owner.name)
    if plan.release:
        writes += await _release(cluster, store, observed, plan)
    if plan.finalizers is not None:
        writes += await _set_finalizers(cluster, index, observed, plan.finalizers)
    for desired in plan.apply:
        wanted = stamped(desired)
        live = observed.live.get((desired["kind"], desired["metadata"]["name"]))
        if desired["kind"] == "Job" and live is not None:
            continue  # a Job's template cannot change; another wish is another Job
        if not _stands(index, wanted, live):
            answer = await _apply_one(cluster, observed, wanted, known=live is not None)
            index.put(answer)
            # What is written otherwise than asked (1024Mi as 1Gi), by the API server or a webhook, stands so.
            index.standing[answer["metadata"]["uid"]] = _compared(answer, wanted)
            writes += 1
    for deletion in plan.delete:
        kind = _KINDS[deletion.kind]
        await cluster.delete(kind, owner.namespace, deletion.name, deletion.uid, deletion.propagation)
        index.forget(kind, key, deletion.name)
        writes += 1
    return writes


async def _release(cluster: Cluster, store: ArtifactStore, observed: Observed, plan: Plan) -> int:
    """Release artifacts; of those that stay an event tells.

    Raises:
        StoreAwayError: a registry is away, and the plan insists.
    """
    kept = await store.release(plan.release)
    away = [one for one in kept if one.away]
    if away and plan.insists:
        raise StoreAwayError(away[0])
    if not kept:
        return 0
    stays = "; ".join(f"{one.artifact} ({one.cause})" for one in kept)
    message = f"left in the store, delete it there or by the store's life-cycle rules: {stays}"
    _LOGGER.warning("%s", message, extra={"key": f"{observed.owner.namespace}/{observed.owner.name}"})
    notice = Notice("Warning", "ArtifactLeft", message)
    return await _record(cluster, observed, _identity(observed, notice), notice)


class StoreAwayError(Exception):
    """An artifact could not be released, and another attempt may do better."""

    def __init__(self, kept: Kept) -> None:
        super().__init__(f"{kept.artifact} is not released yet: {kept.cause}")


def _stands(index: Index, wanted: Mapping[str, Any], live: Mapping[str, Any] | None) -> bool:
    """Tell whether an object stands as wanted; the same two versions are compared once."""
    if live is None:
        return False
    compared = _compared(live, wanted)
    uid = live["metadata"]["uid"]
    if index.standing.get(uid) == compared:
        return True
    if not stands(wanted, live):
        return False
    index.standing[uid] = compared
    return True


def _compared(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, str]:
    return live["metadata"]["resourceVersion"], wanted["metadata"]["annotations"][APPLIED]


async def write_status(
    cluster: Cluster, index: Index, observed: Observed, plan: Plan, delivered: frozenset[str] = frozenset()
) -> int:
    """Write events, then status, each only if something changed; gives the number of writes.

    Events come first and carry a name made from what they say: after a crash between the two they are
    written again under the same name, and refused as known. What web hooks shall be told is written with the
    status; `delivered` names what they took.
    """
    if plan.facts is None:
        return 0
    status = build_status(observed.status, plan.facts, observed.generation, observed.now)
    notices = [(_identity(observed, n), n) for n in (*plan.notices, *transitions(observed.status, status))]
    writes = 0
    for identity, notice in notices:
        writes += await _record(cluster, observed, identity, notice)
    if urls_of(observed.spec):
        waiting = outbox(observed.status.get("notifications", ()), notices, delivered, observed.now)
        if waiting.given_up:
            key = f"{observed.owner.namespace}/{observed.owner.name}"
            _LOGGER.warning("%d notifications are given up", waiting.given_up, extra={"key": key})
        if waiting.pending:
            status["notifications"] = list(waiting.pending)
    if says_more(observed.status, status):
        owner = observed.owner
        obj = {
            "apiVersion": MODEL_DEPLOYMENT.api_version,
            "kind": MODEL_DEPLOYMENT.kind,
            "metadata": {"name": owner.name, "namespace": owner.namespace, "uid": owner.uid},
            "status": status,
        }
        try:
            index.put(await cluster.apply(MODEL_DEPLOYMENT, obj, "status"))
        except ClusterError as error:
            if error.status not in (404, 409):
                raise
            # The object was deleted, or made anew under the same name, between the read and this write.
            return writes
        writes += 1
    return writes


async def remove_answered(cluster: Cluster, index: Index, observed: Observed, plan: Plan) -> int:
    """Remove the one-shot annotations that were answered; gives the number of writes.

    This comes after the status that remembers the answer: a crash between the two answers nothing twice.
    """
    there = [name for name in plan.answered if name in observed.annotations]
    if not there:
        return 0
    owner = observed.owner
    patch = {"metadata": {"uid": owner.uid, "annotations": dict.fromkeys(there)}}
    index.put(await cluster.merge(MODEL_DEPLOYMENT, owner.namespace, owner.name, patch))
    return 1


async def _apply_one(
    cluster: Cluster, observed: Observed, wanted: Mapping[str, Any], known: bool
) -> dict[str, Any]:
    """Apply one object; one that is not known yet must not be somebody else's.

    Raises:
        NameTakenError: an object of that name exists and does not belong to this ModelDeployment.
    """
    kind = kind_of(wanted)
    if known:
        return await cluster.apply(kind, wanted)
    try:
        return await cluster.apply(kind, wanted, force=False)
    except ClusterError as error:
        if error.status != 409:
            raise
        standing = await cluster.get(kind, observed.owner.namespace, wanted["metadata"]["name"])
        if standing is None:
            raise
        owners = standing["metadata"].get("ownerReferences", ())
        if not any(reference["uid"] == observed.owner.uid for reference in owners):
            raise NameTakenError(kind.kind, wanted["metadata"]["name"]) from error
        return await cluster.apply(kind, wanted)


class NameTakenError(Exception):
    """An object that Longshore needs exists already and is somebody else's."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind} {name} exists and does not belong to this ModelDeployment: "
            "rename the ModelDeployment, or delete that object"
        )


async def _set_finalizers(
    cluster: Cluster, index: Index, observed: Observed, finalizers: tuple[str, ...]
) -> int:
    owner = observed.owner
    root = index.root((owner.namespace, owner.name))
    if root is None:
        return 0
    patch = {
        "metadata": {
            "finalizers": list(finalizers),
            "resourceVersion": root["metadata"]["resourceVersion"],
        }
    }
    index.put(await cluster.merge(MODEL_DEPLOYMENT, owner.namespace, owner.name, patch))
    return 1


def _identity(observed: Observed, notice: Notice) -> str:
    """Name what is told; the same again after a crash, and another when it happens another time."""
    told = "/".join(
        (
            observed.owner.uid,
            str(observed.generation),
            notice.reason,
            notice.message,
            _condition_times(observed),
        )
    )
    return hashlib.sha256(told.encode()).hexdigest()[:16]


async def _record(cluster: Cluster, observed: Observed, identity: str, notice: Notice) -> int:
    owner = observed.owner
    moment = datetime.fromtimestamp(observed.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event: Mapping[str, Any] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{owner.name}.{identity}",
            "namespace": owner.namespace,
        },
        "involvedObject": {
            "apiVersion": MODEL_DEPLOYMENT.api_version,
            "kind": MODEL_DEPLOYMENT.kind,
            "name": owner.name,
            "namespace": owner.namespace,
            "uid": owner.uid,
        },
        "type": notice.type,
        "reason": notice.reason,
        "message": notice.message[:1000],
        "source": {"component": "longshore"},
        "reportingComponent": "longshore.dev/operator",
        "reportingInstance": "longshore",
        "action": notice.reason,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
    try:
        await cluster.create(EVENT, event)
    except ClusterError as error:
        if error.status not in (403, 404, 409):
            raise
        if error.status == 403:
            _LOGGER.warning("event %s could not be recorded: %s", notice.reason, error)
        return 0
    return 1


def _condition_times(observed: Observed) -> str:
    return ",".join(c["lastTransitionTime"] for c in observed.status.get("conditions", ()))
