"""observe -> plan -> apply -> status -> requeue: the whole story on one page."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from longshore.apply import apply_plan, write_status
from longshore.cluster import Cluster, ClusterError
from longshore.index import Index, Key
from longshore.metrics import Metrics
from longshore.observe import observe
from longshore.plan.outcome import Plan
from longshore.plan.pipeline import make_plan
from longshore.plan.state import Observed
from longshore.resources.kinds import CHILDREN, MODEL_DEPLOYMENT
from longshore.settings import Settings
from longshore.store import ArtifactStore

_LOGGER = logging.getLogger(__name__)
_KINDS = {kind.kind: kind for kind in CHILDREN}


class Reconciler:
    """Brings one ModelDeployment at a time to where its spec says; safe to call as often as one likes."""

    def __init__(
        self,
        cluster: Cluster,
        index: Index,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._store = ArtifactStore(settings.store_plain_http)

    async def __call__(self, key: Key) -> float | None:
        """Reconcile one ModelDeployment; gives the seconds after which to come back.

        Raises:
            ClusterError: the API server refused or did not answer; nothing is lost by trying again.
        """
        with self._measured():
            observed = observe(self._index, key, self._settings, self._clock())
            if observed is None:
                return None
            plan = make_plan(observed)
            if plan.rests_on:
                # What cannot be taken back rests on what is read live, not on what was heard.
                await self._read_live(key, plan)
                observed = observe(self._index, key, self._settings, self._clock())
                if observed is None:
                    return None
                plan = make_plan(observed)
            return await self._carry_out(observed, plan)

    async def _carry_out(self, observed: Observed, plan: Plan) -> float | None:
        log = logging.LoggerAdapter(_LOGGER, {"key": f"{observed.owner.namespace}/{observed.owner.name}"})
        try:
            writes = await apply_plan(self._cluster, self._store, self._index, observed, plan)
        except ClusterError as error:
            if error.status == 409 or (error.status == 404 and observed.deleting):
                log.info("came second to another writer: %s", error)
                return 0.1
            raise
        self._metrics.writes.inc(writes)
        first_look = writes > 0 and not observed.status
        if first_look:
            # The children's own controllers answer within a moment: one status write instead of two.
            return min(FIRST_STATUS_DELAY, plan.requeue_after or FIRST_STATUS_DELAY)
        told = await write_status(self._cluster, self._index, observed, plan)
        self._metrics.writes.inc(told)
        writes += told
        if writes:
            log.info(
                "reconciled with %d writes", writes, extra={"phase": plan.facts.phase if plan.facts else ""}
            )
        return plan.requeue_after

    async def _read_live(self, key: Key, plan: Plan) -> None:
        namespace, name = key
        root = await self._cluster.get(MODEL_DEPLOYMENT, namespace, name)
        if root is not None:
            self._index.put(root)
        for kind_name, child in plan.rests_on:
            kind = _KINDS[kind_name]
            obj = await self._cluster.get(kind, namespace, child)
            if obj is None:
                self._index.forget(kind, key, child)
            else:
                self._index.put(obj)

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        with self._metrics.duration.time():
            try:
                yield
            except ClusterError as error:
                self._metrics.reconciles.labels("failure").inc()
                self._metrics.failures.labels(error.reason).inc()
                raise
            except Exception as error:
                self._metrics.reconciles.labels("failure").inc()
                self._metrics.failures.labels(type(error).__name__).inc()
                raise
        self._metrics.reconciles.labels("success").inc()


FIRST_STATUS_DELAY = 0.25
"""Seconds before the first status is written when children were just made."""
