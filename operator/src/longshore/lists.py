"""Full lists of what is watched: at the start, from time to time, and of kinds that came late."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from longshore.cluster import Cluster, ClusterError
from longshore.index import Index, Key
from longshore.resources.kinds import CHILDREN, MODEL_DEPLOYMENT, POD, Kind
from longshore.settings import Settings

WATCHED: tuple[Kind, ...] = (MODEL_DEPLOYMENT, *CHILDREN, POD)

LATE = 10.0
"""Seconds between looks for kinds that are not there."""

FOLLOW = 2.0
"""Seconds between lists of a kind that is there and not watched."""

_LOGGER = logging.getLogger(__name__)


async def list_all(cluster: Cluster, index: Index, settings: Settings) -> set[Key]:
    """Read everything there is; gives the keys that changed.

    Raises:
        ClusterError: a kind that Longshore needs cannot be listed.
    """
    changed: set[Key] = set()
    for kind in WATCHED:
        changed |= await _list(cluster, index, kind, settings)
    return changed


async def _list(cluster: Cluster, index: Index, kind: Kind, settings: Settings) -> set[Key]:
    selector = "" if kind is MODEL_DEPLOYMENT else kind.selector
    objects: list[Mapping[str, Any]] = []
    try:
        for namespace in settings.namespaces or (None,):
            answer = await cluster.list(kind, namespace, selector)
            objects += [{**o, "apiVersion": kind.api_version, "kind": kind.kind} for o in answer["items"]]
    except ClusterError as error:
        if kind.optional and error.status in (403, 404):
            index.installed.discard(kind.kind)
            return set()
        if kind is MODEL_DEPLOYMENT and error.status == 404:
            raise ClusterError(
                404,
                "CustomResourceMissing",
                "the kind ModelDeployment is not installed: apply crds/ first",
            ) from error
        raise
    if kind.optional:
        index.installed.add(kind.kind)
    return index.replace(kind, objects)


async def follow_late_kinds(
    cluster: Cluster, index: Index, settings: Settings, wake: Callable[[Key], None]
) -> None:
    """Read, again and again, the optional kinds that were not there when the watches began; never returns.

    Whoever may watch custom resource definitions is told of such kinds, and watches begin by themselves. An
    operator for some namespaces has no such right: a Gateway API that is installed after it would not be
    seen until it is restarted.
    """
    missing = [kind for kind in WATCHED if kind.optional and kind.kind not in index.installed]
    if not missing or not settings.namespaces:
        await asyncio.Event().wait()
    while True:
        await asyncio.sleep(FOLLOW if any(kind.kind in index.installed for kind in missing) else LATE)
        for kind in missing:
            was_there = kind.kind in index.installed
            try:
                changed = await _list(cluster, index, kind, settings)
            except ClusterError as error:
                _LOGGER.warning("%s cannot be listed and is tried again: %s", kind.kind, error)
                continue
            if not was_there and kind.kind in index.installed:
                _LOGGER.info(
                    "%s was installed and is read every %g s: restart the operator to have it watched",
                    kind.kind,
                    FOLLOW,
                )
            for key in changed:
                wake(key)
