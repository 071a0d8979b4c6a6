"""Full lists of what is watched: at the start, from time to time, and where a watch cannot go on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longshore.cluster import Cluster, ClusterError
from longshore.index import Index, Key
from longshore.resources.kinds import CHILDREN, MODEL_DEPLOYMENT, POD, Kind
from longshore.settings import Settings

WATCHED: tuple[Kind, ...] = (MODEL_DEPLOYMENT, *CHILDREN, POD)

Place = tuple[Kind, str | None]
"""A kind, and the namespace it is listed in; None for all of them."""


@dataclass(frozen=True)
class Listed:
    """What lists have told."""

    changed: frozenset[Key]
    versions: Mapping[Place, str]
    """The version of each list, from which a watch goes on; none for a kind that the cluster lacks."""


async def list_all(cluster: Cluster, index: Index, settings: Settings) -> Listed:
    """Read everything there is.

    Raises:
        ClusterError: a kind that Longshore needs cannot be listed.
    """
    changed: set[Key] = set()
    versions: dict[Place, str] = {}
    for kind in WATCHED:
        for namespace in settings.namespaces or (None,):
            listed = await list_place(cluster, index, kind, namespace)
            changed |= listed.changed
            versions |= listed.versions
    return Listed(frozenset(changed), versions)


async def list_place(cluster: Cluster, index: Index, kind: Kind, namespace: str | None) -> Listed:
    """Read all objects of a kind in a namespace, or in all of them.

    Raises:
        ClusterError: the kind cannot be listed, and is not one that a cluster may lack.
    """
    try:
        answer = await cluster.list(kind, namespace, selector_of(kind))
    except ClusterError as error:
        if kind.optional and error.status in (403, 404):
            index.installed.discard(kind.kind)
            return Listed(frozenset(), {})
        if kind is MODEL_DEPLOYMENT and error.status == 404:
            raise ClusterError(
                404,
                "CustomResourceMissing",
                "the kind ModelDeployment is not installed: apply crds/ first",
            ) from error
        raise
    if kind.optional:
        index.installed.add(kind.kind)
    objects: list[Mapping[str, Any]] = [
        {**o, "apiVersion": kind.api_version, "kind": kind.kind} for o in answer["items"]
    ]
    version = answer["metadata"]["resourceVersion"]
    changed = index.replace(kind, objects, int(version), namespace)
    return Listed(frozenset(changed), {(kind, namespace): version})


def selector_of(kind: Kind) -> str:
    """Give the label selector for the objects of a kind that matter here."""
    return "" if kind is MODEL_DEPLOYMENT else kind.selector
