"""Hints to the scheduler for small models: many of them on few nodes, copies of one model apart."""

from typing import Any

from longshore.api.base import quantity
from longshore.resources.names import COMPONENT, SERVER, Owner

SMALL_CORES = 0.5
SMALL_BYTES = float(2**30)
"""A pod that requests no more than both, and no device, is small: dozens of it fit on a node."""

_TOGETHER, _APART = 50, 100
"""Weights, of at most 100: copies of one model apart counts for more than filling a node."""

_NODE = "kubernetes.io/hostname"


def is_small(requests: dict[str, str]) -> bool:
    """Tell whether a pod with these requests is small."""
    plain = {"cpu", "memory", "ephemeral-storage"}
    return (
        requests.keys() <= plain
        and float(quantity(requests["cpu"])) <= SMALL_CORES
        and float(quantity(requests["memory"])) <= SMALL_BYTES
    )


def packed(owner: Owner) -> dict[str, Any]:
    """Give the affinity of a small model's pods: preferences only, so no pod ever waits for them."""
    return {
        "podAffinity": _preferred(_TOGETHER, {COMPONENT: SERVER}),
        "podAntiAffinity": _preferred(_APART, owner.selector()),
    }


def _preferred(weight: int, labels: dict[str, str]) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": _NODE}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "podAffinityTerm": term}]}
