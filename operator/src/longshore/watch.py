"""Watches of a ModelDeployment's children: each change, from a list on, for as long as the operator runs.

They tell most of what there is to hear. kopf, which watches the ModelDeployments themselves, keeps a
queue and a task for every object and looks for handlers at each event: for all kinds that took more CPU time
than all decisions together (`make bench-reconcile`).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from longshore.cluster import Cluster, ClusterError
from longshore.index import Index, Key
from longshore.lists import WATCHED, Place, list_place, selector_of
from longshore.resources.kinds import MODEL_DEPLOYMENT, Kind
from longshore.settings import Settings

LATE = 10.0
LATEST = 60.0
"""Seconds between looks for kinds that the cluster lacks, for each namespace that is watched, and at most."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds before a watch that ended early is begun again: doubled from the one to the other, and jittered.
One that lasted for longer than the second is begun again at once.
"""

GONE = 410
"""Status of a version that the API server keeps no more: only a list helps."""

Hear = Callable[[Kind, str, Mapping[str, Any]], None]
"""Takes in an event: the kind, ADDED, MODIFIED or DELETED, and the object."""

_LOGGER = logging.getLogger(__name__)


class Watches:
    """The watches of all kinds but ModelDeployment."""

    def __init__(
        self, cluster: Cluster, index: Index, settings: Settings, hear: Hear, wake: Callable[[Key], None]
    ) -> None:
        """Prepare.

        Args:
            cluster: a connection of its own: each watch holds one for good.
            index: where lists go.
            settings: the namespaces.
            hear: told of each event.
            wake: told of each ModelDeployment that a list changed.
        """
        self._cluster = cluster
        self._index = index
        self._settings = settings
        self._hear = hear
        self._wake = wake

    async def run(self, versions: Mapping[Place, str]) -> None:
        """Watch from these versions on; never returns."""
        async with asyncio.TaskGroup() as group:
            for kind, namespace in places(self._settings):
                version = versions.get((kind, namespace))
                group.create_task(self._follow(kind, namespace, version), name=f"watch {kind.plural}")

    async def _follow(self, kind: Kind, namespace: str | None, version: str | None) -> None:
        clock = asyncio.get_running_loop().time
        pause = 0.0
        while True:
            began, trouble, level = clock(), "", logging.WARNING
            try:
                if version is None:
                    version = await self._list(kind, namespace)
                if version is None:
                    await asyncio.sleep(min(LATE * max(1, len(self._settings.namespaces)), LATEST))
                    continue
                async for event, obj in self._cluster.watch(kind, namespace, selector_of(kind), version):
                    version = obj["metadata"]["resourceVersion"]
                    if event != "BOOKMARK":
                        self._tell(kind, event, obj)
            except ClusterError as error:
                if error.status == GONE:
                    # On a quiet cluster that is nothing unusual: no bookmark told of a later version.
                    version, level = None, logging.INFO
                elif kind.optional and error.status in (403, 404):
                    version = None
                trouble = str(error)
            # Also where it ended as it should: what ends each at once must not be asked without a rest.
            lasted = clock() - began > LONGEST_PAUSE
            pause = 0.0 if lasted else min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
            if trouble:
                _LOGGER.log(
                    level, "the watch of %s is begun again in %.1f s: %s", kind.plural, pause, trouble
                )
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)

    async def _list(self, kind: Kind, namespace: str | None) -> str | None:
        """Read the kind anew; gives the version to go on from, None where the cluster lacks the kind."""
        known = kind.kind in self._index.installed
        listed = await list_place(self._cluster, self._index, kind, namespace)
        for key in listed.changed:
            self._wake(key)
        if kind.optional and not known and kind.kind in self._index.installed:
            # Whoever wants an object of the kind has none yet, so nothing of it is in the list.
            for key, _ in self._index.roots():
                self._wake(key)
        return listed.versions.get((kind, namespace))

    def _tell(self, kind: Kind, event: str, obj: Mapping[str, Any]) -> None:
        try:
            self._hear(kind, event, obj)
        except Exception:
            # Objects of others are heard too; a strange one must not end the operator again and again.
            name = f"{obj['metadata'].get('namespace')}/{obj['metadata'].get('name')}"
            _LOGGER.exception("%s %s cannot be understood and is passed over", kind.kind, name)


def places(settings: Settings) -> Iterable[Place]:
    """Give what is watched here, and where."""
    for kind in WATCHED:
        if kind is not MODEL_DEPLOYMENT:
            for namespace in settings.namespaces or (None,):
                yield kind, namespace
