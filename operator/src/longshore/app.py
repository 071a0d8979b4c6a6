"""The only file that knows kopf: it watches ModelDeployments; everything else is Longshore's own.

kopf's create, update and field handlers are edge-triggered and write annotations; only `on.event` is used.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf

from longshore.activators import Activators
from longshore.cluster import Cluster, ClusterError, in_cluster
from longshore.examine import Examiner
from longshore.exercise import Exerciser
from longshore.gauges import Gauges
from longshore.index import Index, Key
from longshore.lease import Lease
from longshore.listen import listen
from longshore.lists import Listed, list_all
from longshore.measure import Measurer
from longshore.metrics import Metrics
from longshore.nodes import GpuNodes
from longshore.notify import Notifier
from longshore.observe import waiting_for_route
from longshore.probes import serve_probes
from longshore.queue import Queue
from longshore.reconcile import Reconciler
from longshore.resources.kinds import MODEL_DEPLOYMENT, Kind
from longshore.scrape import Scraper
from longshore.senses import Senses
from longshore.settings import Settings
from longshore.signals import Inquirer
from longshore.watch import Hear, Watches, places

RESYNC = 600.0
"""Seconds between full lists: a watch that broke may have missed a deletion."""

GATHER = 0.1
"""Seconds for which events of children are gathered: a starting Deployment tells a dozen things at once."""

GATHER_PROGRESS = 1.0
"""Seconds for which mere progress is gathered: counts and conditions on the way to a ready pod."""

START = 30.0
"""Seconds that a starting operator waits for an API server that does not answer yet."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Process:
    """How this process runs, apart from what it decides."""

    host: str = "0.0.0.0"  # noqa: S104 (probes and metrics are asked from other pods)
    port: int = 9443
    lease_namespace: str = "default"
    lease_name: str = "longshore-operator"
    elect: bool = True
    workers: int = 16


async def run(settings: Settings, process: Process, started: Callable[[int], None] | None = None) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Args:
        settings: what the operator decides by.
        process: ports, lease, workers.
        started: called with the port of the probes once they answer.

    Raises:
        ClusterError: the API server cannot be reached, or the CRD is missing.
    """
    index, metrics = Index(), Metrics()
    metrics.models.set_function(lambda: index.count)
    async with await Cluster.connect(told=metrics.told) as cluster:
        senses, scraper = Senses(), Scraper()
        notifier, exerciser = Notifier(senses, metrics.notified), Exerciser(senses)
        measurer, nodes = Measurer(senses), GpuNodes(cluster, senses)
        examiner, inquirer, gauges = Examiner(senses), Inquirer(senses), Gauges(senses)
        activators = _activators(index, settings)
        if activators is not None:
            senses.activators = activators.view
        reconciler = Reconciler(
            cluster,
            index,
            senses,
            settings,
            metrics,
            examiner.examine,
            activators.tell if activators is not None else lambda key, activation: None,
            inquirer.inquire,
            gauges.follow,
            notifier.notify,
            exerciser.exercise,
            measurer.measure,
            nodes.follow,
        )
        queue: Queue[Key] = Queue(reconciler, process.workers, _log_failure)
        examiner.wake = notifier.wake = inquirer.wake = measurer.wake = nodes.wake = queue.add
        listed = await _first_list(cluster, index, settings)
        _spare_the_collector()
        probes = serve_probes(process.host, process.port, metrics, queue.stuck_for, lambda: queue.depth)
        async with probes as port:
            if started is not None:
                started(port)
            stop = asyncio.Event()

            async def lead() -> None:
                metrics.leader.set(1)
                try:
                    for key, _ in index.roots():
                        queue.add(key)
                    await queue.run()
                finally:
                    metrics.leader.set(0)

            async def elect() -> None:
                if not process.elect:
                    await lead()
                    return
                identity = f"{socket.gethostname()}-{os.getpid()}"
                await Lease(cluster, process.lease_namespace, process.lease_name, identity).lead(lead)

            hear = _hearing(index, queue, activators.awaited if activators is not None else lambda key: False)
            connections = len(list(places(settings)))
            async with (
                await Cluster.connect(connections=connections) as streams,
                _watch_models(hear, settings) as watching,
            ):
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, stop.set)
                listening = listen(index, senses, queue.add, scraper)
                children = Watches(streams, index, settings, hear, queue.add).run(listed.versions)
                parts = [elect(), _resync(cluster, index, queue, settings), listening, children]
                if activators is not None:
                    activators.wake = queue.add
                    parts.append(activators.run(cluster))
                await _until(stop, watching, *parts)
            parts_with_tasks = (scraper, inquirer, gauges, notifier, exerciser, measurer, nodes)
            await asyncio.gather(*(part.close() for part in parts_with_tasks))


def _spare_the_collector() -> None:
    """Leave modules and the first list out of the search for cycles for good (Python: `gc.freeze`).

    What lives here lives long, and would be passed over again and again.
    """
    gc.collect()
    gc.freeze()


def _activators(index: Index, settings: Settings) -> Activators | None:
    if settings.activator_token is None:
        return None
    return Activators(index, settings.activator_namespace, Path(settings.activator_token))


async def _until(stop: asyncio.Event, watching: asyncio.Task[None], *parts: Awaitable[None]) -> None:
    """Run the parts until told to stop; a part that ends by itself ends the process.

    A lost lease ends it too: whoever restarts it starts with a clean index.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    stopped = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([stopped, watching, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if stopped not in done:
            for task in done:
                task.result()
            raise RuntimeError("a part of the operator ended by itself; it is restarted to start clean")
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _watch_models(hear: Hear, settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Watch ModelDeployments while the context lasts.

    kopf takes over the process's signals when it starts and cancels every task that is younger than itself
    when it ends: so signals are set after it is ready, and it ends after everything else.
    """
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.ensure_future(_watch(hear, settings, stop, ready))
    waiting = asyncio.ensure_future(ready.wait())
    try:
        await asyncio.wait({task, waiting}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        if not ready.is_set():
            raise ClusterError(0, "Unreachable", "the watch did not start within 60 s; is the API server up?")
        yield task
    finally:
        waiting.cancel()
        stop.set()
        # kopf leaves generators that complain when the loop closes them; the process is ending.
        asyncio.get_running_loop().set_exception_handler(_quiet)
        await asyncio.wait({task}, timeout=10)
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


def _quiet(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    _LOGGER.debug("while stopping: %s", context.get("message"))


async def _watch(hear: Hear, settings: Settings, stop: asyncio.Event, ready: asyncio.Event) -> None:
    """Hear of every ModelDeployment by kopf."""
    registry = kopf.OperatorRegistry()
    configuration = kopf.OperatorSettings()
    configuration.posting.enabled = False
    configuration.persistence.diffbase_storage = _NoDiffs()
    configuration.persistence.progress_storage = _NoProgress()
    configuration.queueing.idle_timeout = 0.5
    configuration.scanning.disabled = bool(settings.namespaces)

    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        if in_cluster() and "KUBECONFIG" not in os.environ:
            return kopf.login_with_service_account(**arguments)
        return kopf.login_with_kubeconfig(**arguments)

    kopf.on.login(registry=registry)(login)

    async def handle(event: Mapping[str, Any], **_: Any) -> None:
        hear(MODEL_DEPLOYMENT, event["type"] or "ADDED", event["object"])

    kind = MODEL_DEPLOYMENT
    kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)(handle)
    # Without one, kopf asks for the name of the user, which a container's user need not have.
    identity: Any = "longshore"
    await kopf.operator(
        registry=registry,
        settings=configuration,
        identity=identity,
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
        ready_flag=ready,
    )


class _NoProgress(kopf.ProgressStorage):
    """Keeps kopf from looking in every object for the progress of handlers that do not exist here."""

    def fetch(self, **_: Any) -> None:
        """Nothing was stored."""

    def store(self, **_: Any) -> None:
        """Nothing is stored."""

    def purge(self, **_: Any) -> None:
        """Nothing is left to remove."""

    def touch(self, **_: Any) -> None:
        """Nothing is touched."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Nothing is in it."""
        return essence


class _NoDiffs(kopf.DiffBaseStorage):
    """Keeps kopf from copying and comparing every object for handlers that do not exist here."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of an object is compared."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is stored."""


def _hearing(index: Index, queue: Queue[Key], awaited: Callable[[Key], bool]) -> Hear:
    """Make what takes in events: into the index, and into the queue when it is news."""

    def hear(kind: Kind, event: str, given: Mapping[str, Any]) -> None:
        obj = {**given, "apiVersion": kind.api_version, "kind": kind.kind}
        key = index.remove(obj) if event == "DELETED" else index.put(obj)
        if key is None:
            return
        pressing = key in index.pressing
        index.pressing.discard(key)
        if kind is MODEL_DEPLOYMENT or (pressing and awaited(key)):
            queue.add(key)
        else:
            queue.add_after(key, GATHER if pressing else GATHER_PROGRESS)
        if kind is MODEL_DEPLOYMENT and event == "DELETED":
            # Its route is free for whoever waited for it.
            for other in waiting_for_route(index):
                queue.add_after(other, GATHER)

    return hear


async def _resync(cluster: Cluster, index: Index, queue: Queue[Key], settings: Settings) -> None:
    while True:
        await asyncio.sleep(RESYNC)
        try:
            for key in (await list_all(cluster, index, settings)).changed:
                queue.add(key)
        except ClusterError as error:
            _LOGGER.warning("the full list failed and is tried again later: %s", error)


async def _first_list(cluster: Cluster, index: Index, settings: Settings) -> Listed:
    """Read everything there is; an API server that is only starting is waited for.

    Raises:
        ClusterError: as `list_all`, or the API server did not answer for `START` seconds.
    """
    deadline = asyncio.get_running_loop().time() + START
    while True:
        try:
            return await list_all(cluster, index, settings)
        except ClusterError as error:
            passes = error.status in (0, 429) or error.status >= 500
            if not passes or asyncio.get_running_loop().time() > deadline:
                raise
            _LOGGER.warning("the API server is not ready and is asked again: %s", error)
            await asyncio.sleep(1)


def _log_failure(key: Key, error: Exception) -> None:
    expected = isinstance(error, ClusterError)
    _LOGGER.error(
        "reconcile failed and is tried again: %s",
        error,
        exc_info=None if expected else error,
        extra={"key": f"{key[0]}/{key[1]}"},
    )
