"""Looks at the labels of the nodes with a GPU, while a model has engines built for them."""

import asyncio
import logging
from collections.abc import Callable

from longshore.cluster import Cluster, ClusterError
from longshore.index import Key
from longshore.resources.kinds import NODE
from longshore.resources.names import GPU_PRODUCT
from longshore.senses import Senses

INTERVAL = 60.0
"""Seconds between two looks: a driver changes with a restart of the node."""

_LOGGER = logging.getLogger(__name__)


class GpuNodes:
    """Keeps `Senses.gpu_nodes` while some ModelDeployment needs it; close it when done."""

    def __init__(self, cluster: Cluster, senses: Senses, interval: float = INTERVAL) -> None:
        self._cluster = cluster
        self._senses = senses
        self._interval = interval
        self._following: set[Key] = set()
        self._task: asyncio.Task[None] | None = None
        self._refused = False
        self.wake: Callable[[Key], None] = lambda key: None
        """Called for each model that needs them when the labels are others than before."""

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def follow(self, key: Key, wanted: bool) -> None:
        """Look from time to time while any model wants it; never waits."""
        (self._following.add if wanted else self._following.discard)(key)
        if self._following and self._task is None:
            self._task = asyncio.ensure_future(self._run())
        elif not self._following and self._task is not None:
            self._task.cancel()
            self._task = None
            self._senses.gpu_nodes = None

    async def _run(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(self._interval)

    async def _look(self) -> None:
        try:
            answer = await self._cluster.list(NODE, None, GPU_PRODUCT, metadata_only=True)
        except ClusterError as error:
            if error.status != 403:
                _LOGGER.warning("the nodes could not be looked at and are looked at again: %s", error)
                return
            if not self._refused:
                self._refused = True
                _LOGGER.warning(
                    "this operator may not list nodes, so no engine is built anew when a GPU or driver "
                    "changes: give it that right (ClusterRole: nodes, list)"
                )
            answer = {"items": ()}
        found = tuple(
            sorted((dict(item["metadata"].get("labels", {})) for item in answer["items"]), key=repr)
        )
        if found != self._senses.gpu_nodes:
            self._senses.gpu_nodes = found
            for key in tuple(self._following):
                self.wake(key)
