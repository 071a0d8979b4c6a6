"""observe -> plan -> apply -> status -> requeue: the whole story on one page."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from longshore.apply import NameTakenError, StoreAwayError, apply_plan, remove_answered, write_status
from longshore.cluster import Cluster, ClusterError
from longshore.index import Index, Key
from longshore.metrics import Metrics
from longshore.observe import observe
from longshore.plan.analysis.questions import Questions
from longshore.plan.outbox import urls_of
from longshore.plan.outcome import Plan, Problem
from longshore.plan.pipeline import make_plan
from longshore.plan.scaling.queries import MetricQuery
from longshore.plan.state import Activation, Exercise, Measurement, Observed
from longshore.resources.kinds import CHILDREN, MODEL_DEPLOYMENT
from longshore.resources.names import Owner
from longshore.senses import Senses
from longshore.settings import Settings
from longshore.store import ArtifactStore

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)
_KINDS = {kind.kind: kind for kind in CHILDREN}


class Reconciler:
    """Brings one ModelDeployment at a time to where its spec says; safe to call as often as one likes."""

    def __init__(
        self,
        cluster: Cluster,
        index: Index,
        senses: Senses,
        settings: Settings,
        metrics: Metrics,
        examine: Callable[[Observed, str], None] = lambda observed, revision: None,
        activate: Callable[[Key, Activation | None], None] = lambda key, activation: None,
        inquire: Callable[[Key, Questions | None], None] = lambda key, questions: None,
        follow: Callable[[Key, tuple[MetricQuery, ...]], None] = lambda key, queries: None,
        notify: Callable[
            [Owner, Sequence[Mapping[str, Any]], Sequence[str]], None
        ] = lambda owner, pending, urls: None,
        exercise: Callable[[Key, Exercise | None], None] = lambda key, wanted: None,
        measure: Callable[[Owner, Measurement | None], None] = lambda owner, wanted: None,
        look_at_nodes: Callable[[Key, bool], None] = lambda key, wanted: None,
        store: ArtifactStore | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._senses = senses
        self._settings = settings
        self._metrics = metrics
        self._examine = examine
        self._activate = activate
        self._inquire = inquire
        self._notify = notify
        self._exercise = exercise
        self._follow = follow
        self._measure = measure
        self._look_at_nodes = look_at_nodes
        self._clock = clock
        self._store = store or ArtifactStore(settings.store_plain_http)

    async def __call__(self, key: Key) -> float | None:
        """Reconcile one ModelDeployment; gives the seconds after which to come back.

        Raises:
            ClusterError: the API server refused or did not answer; nothing is lost by trying again.
        """
        with self._measured():
            observed = self._observe(key)
            if observed is None:
                self._senses.forget(key)
                self._activate(key, None)
                self._inquire(key, None)
                self._exercise(key, None)
                self._notify(Owner(key[0], key[1], ""), (), ())
                self._follow(key, ())
                self._measure(Owner(key[0], key[1], ""), None)
                self._look_at_nodes(key, False)
                return None
            plan = make_plan(observed)
            if plan.rests_on:
                # What cannot be taken back rests on what is read live, not on what was heard.
                await self._read_live(key, plan)
                observed = self._observe(key)
                if observed is None:
                    return None
                plan = make_plan(observed)
            return await self._carry_out(key, observed, plan)

    def _observe(self, key: Key) -> Observed | None:
        return observe(self._index, key, self._settings, self._clock(), self._senses)

    async def _carry_out(self, key: Key, observed: Observed, plan: Plan) -> float | None:
        log = logging.LoggerAdapter(_LOGGER, {"key": f"{key[0]}/{key[1]}"})
        # First of all: whoever waits in an activator waits for nothing else.
        self._activate(key, plan.activation)
        try:
            writes = await apply_plan(self._cluster, self._store, self._index, observed, plan)
        except ClusterError as error:
            if error.status == 409 or (error.status == 404 and observed.deleted is not None):
                log.info("came second to another writer: %s", error)
                return SECOND_LOOK
            if not error.refused:
                raise
            log.warning("refused by the API server: %s", error)
            self._metrics.failures.labels(error.reason).inc()
            why = f"the API server refuses what this spec asks for: {error}; mend that part of the spec"
            writes, plan = 0, _stalled(plan, Problem("ObjectRefused", why, again=REFUSED_LOOK))
        except StoreAwayError as error:
            log.warning("%s", error)
            self._metrics.failures.labels("StoreAway").inc()
            return STORE_LOOK
        except NameTakenError as error:
            log.warning("%s", error)
            self._metrics.failures.labels("NameTaken").inc()
            writes, plan = 0, _stalled(plan, Problem("NameTaken", str(error), again=NAME_TAKEN_LOOK))
        if writes > 0 and not observed.status:
            # The children's own controllers answer within a moment: one status write instead of two.
            return min(SECOND_LOOK, plan.requeue_after or SECOND_LOOK)
        taken = self._senses.delivered.get(key, frozenset())
        told = await write_status(self._cluster, self._index, observed, plan, taken)
        told += await remove_answered(self._cluster, self._index, observed, plan)
        self._remember(key, observed, plan)
        self._tell(key, observed)
        if writes or told:
            phase = plan.facts.phase if plan.facts else "Deleting"
            log.info("reconciled with %d writes", writes + told, extra={"phase": phase})
        if told and self._remembers_more(key, observed):
            # What status remembers may ask for more, and no watch tells of one's own writes.
            return min(NEXT_LOOK, plan.requeue_after or NEXT_LOOK)
        return plan.requeue_after

    def _tell(self, key: Key, observed: Observed) -> None:
        """Let web hooks know of what stands in status to be told."""
        root = self._index.root(key)
        if root is not None:
            pending = root.get("status", {}).get("notifications", ())
            self._notify(observed.owner, pending, urls_of(observed.spec))

    def _remember(self, key: Key, observed: Observed, plan: Plan) -> None:
        """Keep what the next plan needs, and start what this one asks for."""
        _keep(self._senses.analysed, key, plan.analysed)
        _keep(self._senses.scaled, key, plan.scaled)
        _keep(self._senses.mirroring, key, plan.mirroring)
        (self._senses.listening.add if plan.listen else self._senses.listening.discard)(key)
        (self._senses.predicting.add if plan.predictions else self._senses.predicting.discard)(key)
        self._exercise(key, plan.exercise)
        self._inquire(key, plan.questions)
        self._follow(key, plan.queries)
        self._measure(observed.owner, plan.measurement)
        self._look_at_nodes(key, plan.looks_at_nodes)
        if plan.preflight is not None:
            self._examine(observed, plan.preflight)
        else:
            self._senses.preflight.pop(key, None)

    def _remembers_more(self, key: Key, observed: Observed) -> bool:
        """Tell whether the status that was just written changed what the next plan reads of it."""
        root = self._index.root(key)
        status = root.get("status", {}) if root is not None else {}
        return any(status.get(field) != observed.status.get(field) for field in REMEMBERED)

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


SECOND_LOOK = 0.25
"""Seconds until the next look after children were just made, or after somebody else wrote first."""

STORE_LOOK = 5.0
"""Seconds between tries to release an artifact whose registry is away."""

REFUSED_LOOK = 60.0
"""Seconds between tries of what the API server refuses: a quota or a policy may have changed."""

REMEMBERED = ("rollout", "optimization", "revisions", "runtimes")
"""What of status a plan reads; the rest is for people."""

NEXT_LOOK = 0.05
"""Seconds until the next look after a status was written."""

NAME_TAKEN_LOOK = 30.0
"""Seconds between looks at an object of somebody else's that is in the way: no watch tells of it."""


def _keep(known: dict[Key, T], key: Key, value: T | None) -> None:
    if value is None:
        known.pop(key, None)
    else:
        known[key] = value


def _stalled(plan: Plan, problem: Problem) -> Plan:
    """Give the plan with a problem that only applying it could find."""
    if plan.facts is None:
        return plan
    facts = replace(plan.facts, phase="Stalled", message=problem.message, stalled=problem, reconciling=None)
    return replace(plan, facts=facts, requeue_after=problem.again)
