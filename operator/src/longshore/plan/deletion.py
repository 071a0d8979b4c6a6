"""What is left to do when the ModelDeployment is going away.

Everything in the namespace goes by owner reference. Outside of it are only artifacts in the store: one that
no other ModelDeployment uses is released before the finalizer goes.
"""

from longshore.plan.artifact import stored_artifacts
from longshore.plan.outcome import Plan
from longshore.plan.state import Observed
from longshore.resources.names import FINALIZER


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
    wanted = outside and not observed.deleting
    if wanted == (FINALIZER in observed.finalizers):
        return None
    if wanted:
        return (*observed.finalizers, FINALIZER)
    return tuple(f for f in observed.finalizers if f != FINALIZER)


def plan_deletion(observed: Observed) -> Plan:
    """Release what nothing else uses, then let go."""
    if FINALIZER not in observed.finalizers:
        return Plan()
    return Plan(
        release=tuple(sorted(artifacts_of(observed) - observed.shared_artifacts)),
        finalizers=finalizers(observed),
    )
