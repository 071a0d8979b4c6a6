"""What the models of a namespace ask of the budget that they share: gathered here, decided in `plan`."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydantic import ValidationError

from longshore.api.scaling import ScalingBudget
from longshore.index import Index, Key
from longshore.plan.scaling import Budget, Claim
from longshore.senses import Senses


def budget_of(index: Index, key: Key, senses: Senses | None) -> Budget | None:
    """Give the budget that a model names, with what all others that name it ask for; None without one.

    Where they bound it differently the tightest bound holds.
    """
    root = index.root(key)
    own = _named(root) if root is not None else None
    if own is None:
        return None
    members = [(other, wish) for other, wish in _members(index, key[0], own.name) if other != key]
    wishes = [own, *(wish for _, wish in members)]
    return Budget(
        own.name,
        min((w.max_replicas for w in wishes if w.max_replicas is not None), default=None),
        min((w.max_cost for w in wishes if w.max_cost is not None), default=None),
        tuple(_claim(index, other, wish, senses) for other, wish in members),
    )


def _members(index: Index, namespace: str, name: str) -> Iterator[tuple[Key, ScalingBudget]]:
    for key, root in index.roots():
        if key[0] == namespace:
            wish = _named(root)
            if wish is not None and wish.name == name:
                yield key, wish


def _claim(index: Index, key: Key, wish: ScalingBudget, senses: Senses | None) -> Claim:
    """Give what a model asked for last; one that does not scale keeps the pods that it has.

    Warm copies are pods as any other.
    """
    standing = sum(
        obj.get("spec", {}).get("replicas", 1)
        for (kind, _), obj in index.children(key).items()
        if kind == "Deployment" and "deletionTimestamp" not in obj["metadata"]
    )
    scaled = senses.scaled.get(key) if senses is not None else None
    known = scaled.claim if scaled is not None else None
    name = "/".join(key)
    if known is None:
        return Claim(
            name, wish.priority, wish.cost, want=standing, min=standing, floor=standing, standing=standing
        )
    return Claim(
        name,
        wish.priority,
        wish.cost,
        want=known.want,
        min=known.min,
        floor=known.floor,
        rate=known.rate,
        curve=known.curve,
        standing=standing,
    )


def _named(root: Mapping[str, Any]) -> ScalingBudget | None:
    wish = (root.get("spec", {}).get("scaling") or {}).get("budget")
    return _parsed(orjson.dumps(wish)) if wish is not None else None


@lru_cache(maxsize=4096)
def _parsed(text: bytes) -> ScalingBudget | None:
    """Read a budget; one that the API would refuse is none."""
    try:
        return ScalingBudget.model_validate_json(text)
    except ValidationError:
        return None
