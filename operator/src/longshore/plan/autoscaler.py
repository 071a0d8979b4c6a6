"""The stage that hands scaling to an HPA or to KEDA, where the spec names one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longshore.api import Spec
from longshore.api.scaling import Engine
from longshore.plan.outcome import Deletion, Done, Problem
from longshore.plan.state import Observed
from longshore.resources.hpa import Rendered, horizontal_pod_autoscaler
from longshore.resources.kinds import HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT
from longshore.resources.scaledobject import scaled_object

_KINDS = {Engine.HPA: HORIZONTAL_POD_AUTOSCALER, Engine.KEDA: SCALED_OBJECT}


@dataclass(frozen=True)
class AutoscalerStage:
    """The outcome, None with the builtin engine; `unexpressed` is what the engine cannot say."""

    outcome: Done[str] | Problem | None = None
    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()
    unexpressed: tuple[str, ...] = ()


def decide(observed: Observed, spec: Spec) -> AutoscalerStage:
    """Decide on the HPA or ScaledObject; it writes the ModelDeployment's own scale subresource."""
    engine = spec.scaling.engine
    wanted = _KINDS.get(engine)
    unwanted = tuple(
        Deletion(kind.kind, observed.owner.name, standing["metadata"]["uid"])
        for kind in _KINDS.values()
        if kind is not wanted
        and (standing := observed.live.get((kind.kind, observed.owner.name))) is not None
        and not standing["metadata"].get("deletionTimestamp")
    )
    if wanted is None:
        return AutoscalerStage(delete=unwanted)
    if wanted.optional and wanted.kind not in observed.installed:
        return AutoscalerStage(
            Problem(
                "KedaMissing", "scaling.engine KEDA needs KEDA in the cluster: install it, or use Builtin"
            ),
            delete=unwanted,
        )
    rendered = _rendered(observed, spec)
    return AutoscalerStage(
        Done(f"{wanted.kind} {observed.owner.name} decides the number of pods"),
        (rendered.object,),
        unwanted,
        tuple(f"scaling ({text})" for text in rendered.unexpressed),
    )


def _rendered(observed: Observed, spec: Spec) -> Rendered:
    if spec.scaling.engine is Engine.HPA:
        return horizontal_pod_autoscaler(observed.owner, spec.scaling)
    return scaled_object(observed.owner, spec.scaling, observed.settings.prometheus)
