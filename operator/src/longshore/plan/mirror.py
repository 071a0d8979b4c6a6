"""Who shall send copies of requests to the revision that is tried, and whether they do.

A server sends copies while it is asked for it, again and again: when nobody asks any more it ends by itself.
So nothing is written into the cluster, and no pod restarts, when it begins.
"""

from dataclasses import dataclass

from longshore.api import Spec
from longshore.api.rollout import SignalType, Strategy
from longshore.api.serving import RuntimeName
from longshore.plan.rollout.model import Targets
from longshore.plan.state import Observed
from longshore.resources.names import mirror_key, side_address
from longshore.runtimes.base import Runtime
from longshore.runtimes.registry import runtime_of

LEASE = 15.0
"""Seconds for which a server sends copies once it was asked; it is asked at every look."""

_HOPELESS = 20
"""Copies that fail before the first that is answered: a Service needs a second to lead somewhere."""

BESIDE_WEIGHT = 0.1
"""Share that is copied to a canary that has weight too: its pods are as many as its weight needs."""


@dataclass(frozen=True)
class Mirroring:
    """Copies that the pods of a revision shall send to the Service of the canary.

    Attributes:
        stable: revision whose pods send them.
        canary: revision that answers them.
        share: of the requests, above 0 to 1.
        seconds: how long a server goes on when it is not asked again.
        tolerance: relative distance of numbers that counts as the same answer.
        key: what the servers take such a request by.
    """

    stable: str
    canary: str
    share: float
    seconds: float
    tolerance: float
    key: str


def can_mirror(spec: Spec) -> bool:
    """Tell whether the pods of this spec can send copies and compare."""
    return _mirrors(runtime_of(spec.serving.runtime) or runtime_of(RuntimeName.ONNX_RUNTIME))


def compares_answers(spec: Spec) -> bool:
    """Tell whether answers to copies are a signal of a rollout of this spec."""
    rollout = spec.rollout
    if rollout.strategy is Strategy.SHADOW:
        return True
    asked = any(signal.type is SignalType.AGREEMENT for signal in rollout.analysis.signals)
    beside = rollout.strategy is Strategy.CANARY and any(step.weight < 100 for step in rollout.steps)
    return asked and beside and can_mirror(spec)


def mirroring(observed: Observed, spec: Spec, targets: Targets, weight: int) -> Mirroring | None:
    """Give what the pods of the stable revision shall be asked for at a stage of `weight`; None: nothing."""
    if targets.mirror is None or targets.stable is None:
        return None
    return Mirroring(
        stable=targets.stable,
        canary=targets.mirror,
        share=1.0 if weight == 0 else BESIDE_WEIGHT,
        seconds=LEASE,
        tolerance=spec.rollout.preflight.tolerance,
        key=mirror_key(observed.owner),
    )


def mirrored(observed: Observed, stable: str | None, canary: str | None) -> tuple[str | None, str]:
    """Tell which revision gets copies at this moment, and why none does.

    Args:
        observed: the cluster.
        stable: revision that the stable Service selects.
        canary: revision that the canary Service selects, where the copies go.
    """
    telemetry = observed.telemetry
    if stable is None or canary in (None, stable):
        return None, ""
    standing = observed.deployment(stable)
    name = (standing.provenance.runtime if standing else None) or RuntimeName.ONNX_RUNTIME
    runtime = runtime_of(RuntimeName(name)) if name in list(RuntimeName) else None
    if not _mirrors(runtime):
        return None, f"the runtime of {stable}, {name}, sends no copies: promote it, or take another strategy"
    if telemetry is None or not 0 <= observed.now - telemetry.at <= LEASE:
        return None, ""
    readings = [reading for reading in telemetry.readings if reading.revision == stable]
    if any(reading.values.get("mirroring", 0) > 0 for reading in readings):
        failed = int(sum(reading.values.get("uncopied", 0) for reading in readings))
        if failed < _HOPELESS or any(reading.values.get("compared", 0) for reading in readings):
            return canary, ""
        return None, (
            f"{failed} copies were sent and none was answered: see that pods of {stable} reach "
            f"{side_address(observed.owner, 'canary')} (DNS, policies of the network) and that it answers"
        )
    return None, next((f"pod {r.pod}: {r.unmirrored}" for r in readings if r.unmirrored), "")


def _mirrors(runtime: Runtime | None) -> bool:
    return runtime is not None and "compared" in runtime.metrics.series
