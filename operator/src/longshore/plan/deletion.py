"""What is left to do when the ModelDeployment is going away.

Everything in the namespace goes by owner reference. Outside of it are only artifacts in the store: one that
no other ModelDeployment uses is released before the finalizer goes. A Job at work may store one at any
moment, so it goes first, and its pods have ended before anything is released.
"""

from longshore.plan.artifact import stored_artifacts
from longshore.plan.outcome import Deletion, Plan
from longshore.plan.state import Observed
from longshore.resources.names import FINALIZER

PATIENCE = 120.0
"""Seconds after the request in which a deletion waits for pods of a Job to end and for a registry that is
away: a pod on a lost node may never end, and a namespace shall not hang on a registry that is gone."""
LOOK = 0.1
"""Seconds until the next look after a Job was deleted: no watch may tell of one that had no pod yet."""
_ENDED = ("Succeeded", "Failed")


def artifacts_of(observed: Observed) -> frozenset[str]:
    """Give the artifacts that the revisions of this ModelDeployment load, and what its Jobs just stored."""
    return (
        stored_artifacts(observed)
        | frozenset(d.provenance.artifact for d in observed.deployments if d.provenance.artifact)
        | frozenset(d.provenance.image for d in observed.deployments if d.provenance.image)
        | frozenset(r["artifact"] for r in observed.status.get("revisions", ()) if r.get("artifact"))
    )


def finalizers(observed: Observed, starts_job: bool = False) -> tuple[str, ...] | None:
    """Give the finalizers that shall stand; None where nothing changes.

    A Job may store an artifact at any moment, so the finalizer stands before the first one starts.
    """
    outside = starts_job or bool(observed.jobs) or bool(artifacts_of(observed))
    wanted = outside and observed.deleted is None
    if wanted == (FINALIZER in observed.finalizers):
        return None
    if wanted:
        return (*observed.finalizers, FINALIZER)
    return tuple(f for f in observed.finalizers if f != FINALIZER)


def plan_deletion(observed: Observed) -> Plan:
    """End what may still store something, release what nothing else uses, then let go."""
    if FINALIZER not in observed.finalizers:
        return Plan()
    # A clock that jumped back must not make it wait without bound.
    left = min((observed.deleted or observed.now) + PATIENCE - observed.now, PATIENCE)
    working = [job for job in observed.jobs if not (job.succeeded or job.failed or job.deleting)]
    if working and left > 0:
        return Plan(delete=tuple(Deletion("Job", job.name, job.uid) for job in working), requeue_after=LOOK)
    if any(pod.job and pod.phase not in _ENDED for pod in observed.pods) and left > 0:
        return Plan(requeue_after=left)
    return Plan(
        insists=left > 0,
        release=tuple(sorted(artifacts_of(observed) - observed.shared_artifacts)),
        finalizers=finalizers(observed),
    )
