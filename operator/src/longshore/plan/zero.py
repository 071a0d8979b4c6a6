"""To zero and back: the activators stand in for a model while no pod answers, and only then."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from longshore.api import Spec
from longshore.api.scaling import Engine
from longshore.plan.outcome import Deletion
from longshore.plan.state import Activation, Endpoint, Observed
from longshore.resources.endpointslice import activator_slice, slice_name
from longshore.resources.names import ENTERED_AT

SETTLE = 2.0
"""Seconds between the activators' entry and the end of the last pod: every kube-proxy must know of them."""

WARM_UP = 120.0
"""Seconds for which the last pod waits at most for a warm copy, so that no cold start lies between.

A node that has no room for both, or a copy that never starts, must not keep the model awake for longer.
"""


@dataclass(frozen=True)
class ZeroStage:
    """Pods that may stand now, and what leads requests to the activators.

    Attributes:
        replicas: pods for the whole load; 1 in place of 0 until the activators have taken over.
        apply: the activators' slice.
        delete: the slice, once pods answer.
        activation: what the activators shall know of this model; None: nothing.
        holds: requests are held by the activators until a pod answers.
        warm: warm copies of the stable revision to keep; None: as many as stand, for nothing is known.
        again: seconds until it must be looked at again.
    """

    replicas: int
    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()
    activation: Activation | None = None
    holds: bool = False
    warm: int | None = 0
    again: float | None = None


def may_sleep(spec: Spec) -> bool:
    """Tell whether the spec lets the model go to zero by itself."""
    return (
        spec.scaling.min == 0
        and spec.scaling.engine is Engine.BUILTIN
        and spec.serving.replicas is None
        and spec.scaling.ceiling > 0
    )


def decide(
    observed: Observed, spec: Spec, stable: str | None, replicas: int, paid: int | None = None
) -> ZeroStage:
    """Decide whether the activators stand in.

    Args:
        observed: the cluster.
        spec: what is wanted.
        stable: the revision that answers.
        replicas: pods that the load asks for.
        paid: warm copies that the budget pays for at most; None: all.
    """
    copies = spec.scaling.warm if paid is None else min(spec.scaling.warm, paid)
    standing = observed.live.get(("EndpointSlice", slice_name(observed.owner)))
    view = observed.activators
    if not may_sleep(spec) or stable is None or view is None:
        # Activators that are away cannot be entered; those that stand in stay until pods answer.
        answered = stable is not None and _ready(observed, stable)
        gone = standing is not None and (answered or not may_sleep(spec))
        return ZeroStage(
            max(replicas, 1) if may_sleep(spec) else replicas,
            delete=_deletion(standing) if gone else (),
            holds=standing is not None and not gone,
            warm=None if may_sleep(spec) and stable is not None else 0,
        )
    activation = Activation(view.http, view.grpc, _endpoints(observed, stable))
    ready = _ready(observed, stable)
    if ready and replicas > 0:
        return ZeroStage(replicas, delete=_deletion(standing), activation=activation)
    if not view.addresses:
        return ZeroStage(max(replicas, 1), activation=activation, holds=standing is not None, warm=None)
    entered = _entered(standing, observed.now)
    since = observed.now if entered is None else entered
    wanted = activator_slice(observed.owner, view.addresses, view.http, view.grpc, _rfc3339(since))
    stands_in = ZeroStage(replicas, (wanted,), activation=activation, holds=standing is not None, warm=copies)
    if replicas > 0:
        return stands_in
    left = _left(SETTLE, entered, observed.now)
    if left <= 0 and ready and copies and not any(pod.ready for pod in observed.warm_of(stable)):
        left = _left(WARM_UP, entered, observed.now)
    if left > 0:
        return replace(stands_in, replicas=1, again=left)
    return replace(stands_in, holds=True)


def _left(wait: float, entered: float | None, now: float) -> float:
    """Give what is left of a wait since the entry."""
    return wait if entered is None else entered + wait - now


def _ready(observed: Observed, stable: str) -> bool:
    return any(pod.ready and not pod.deleting for pod in observed.pods_of(stable))


def _endpoints(observed: Observed, stable: str) -> tuple[Endpoint, ...]:
    """Give the pods that a connection may be joined to, ready or on their way."""
    pods = [Endpoint(p.ip, p.ready) for p in observed.pods_of(stable) if p.ip and not p.deleting]
    warm = [Endpoint(p.ip, p.ready, warm=True) for p in observed.warm_of(stable) if p.ip]
    return tuple(sorted((*pods, *warm), key=lambda e: e.address))


def _entered(standing: Mapping[str, Any] | None, now: float) -> float | None:
    """Give when the activators were put in; a clock that jumped back must not keep the last pod for ever."""
    text = standing["metadata"].get("annotations", {}).get(ENTERED_AT) if standing is not None else None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else None
    except ValueError:
        return None
    return moment if moment is not None and moment <= now else None


def _deletion(standing: Mapping[str, Any] | None) -> tuple[Deletion, ...]:
    if standing is None or standing["metadata"].get("deletionTimestamp"):
        return ()
    return (Deletion("EndpointSlice", standing["metadata"]["name"], standing["metadata"]["uid"]),)


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
