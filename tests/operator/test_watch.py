"""Watches of children on a real API server: nothing is missed when a connection or a version is lost."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvloop
from longshore import cluster, watch
from longshore.cluster import Cluster, ClusterError
from longshore.index import Index, Key
from longshore.lists import list_all
from longshore.resources.kinds import NETWORK_POLICY, SERVICE, SERVICE_ACCOUNT, Kind
from longshore.resources.names import MANAGED_BY, MANAGER, NAME
from longshore.settings import Settings
from longshore.watch import Watches, places

from tests.kube import Kube, models_path
from tests.operator.tunnels import Relay, kubeconfig_of

pytestmark = pytest.mark.apiserver


async def _nothing() -> None:
    """Nothing happens between the list and the watches."""


class Heard:
    """The watches of one namespace, and what they told."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube, self.namespace = kube, namespace
        self.index = Index()
        self.events: list[tuple[str, str, str]] = []
        self.woken: list[Key] = []
        self.begun: Counter[str] = Counter()
        self.news = asyncio.Event()
        self.between: Callable[[], Awaitable[None]] = _nothing

    def hear(self, kind: Kind, event: str, obj: Mapping[str, Any]) -> None:
        self.news.set()
        name = obj["metadata"]["name"]
        if name == "strange":
            raise KeyError("spec")
        self.events.append((event, kind.kind, name))

    def wake(self, key: Key) -> None:
        self.woken.append(key)
        self.news.set()

    async def until(self, event: str, kind: Kind, name: str) -> None:
        """Await an event."""
        await self.awaits(lambda: (event, kind.kind, name) in self.events)

    async def awaits(self, come: Callable[[], object]) -> None:
        """Await a condition that news may bring."""
        async with asyncio.timeout(20):
            while not come():
                self.news.clear()
                await self.news.wait()

    async def create(self, kind: Kind, name: str) -> None:
        """Create a child of the ModelDeployment `digits`."""
        specs: dict[Kind, dict[str, Any]] = {
            SERVICE: {"spec": {"ports": [{"port": 80}]}},
            NETWORK_POLICY: {"spec": {"podSelector": {}}},
            SERVICE_ACCOUNT: {},
        }
        labels = {NAME: "digits", MANAGED_BY: MANAGER}
        obj = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": name, "labels": labels},
        }
        await asyncio.to_thread(self.kube.create, kind.path(self.namespace), obj | specs[kind])

    async def delete(self, kind: Kind, name: str) -> None:
        await asyncio.to_thread(self.kube.delete, kind.path(self.namespace, name))


class Forgetful(Cluster):
    """An API server that forgot its history once; a real one does so after minutes at the earliest."""

    forgets: set[str]
    heard: "Heard"

    async def watch(
        self, kind: Kind, namespace: str | None, selector: str, version: str
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        self.heard.begun[kind.plural] += 1
        self.heard.news.set()
        if kind.plural in self.forgets:
            self.forgets.discard(kind.plural)
            raise ClusterError(410, "Expired", "too old resource version")
        async with contextlib.aclosing(super().watch(kind, namespace, selector, version)) as events:
            async for event in events:
                yield event


@contextlib.asynccontextmanager
async def watching(
    heard: Heard, kubeconfig: Path | None = None, forgets: Iterable[str] = ()
) -> AsyncIterator[None]:
    """Watch, from a full list on; what happens before the watches begin is up to `heard.between`."""
    settings = Settings(namespaces=(heard.namespace,))
    path = str(kubeconfig or heard.kube.server.kubeconfig)
    # A kind that was just installed is answered with 429 for a moment.
    await asyncio.to_thread(heard.kube.items, models_path(heard.namespace))
    async with (
        await Cluster.connect(path) as lists,
        await Forgetful.connect(path, connections=len(list(places(settings)))) as streams,
    ):
        streams.forgets, streams.heard = set(forgets), heard
        listed = await list_all(lists, heard.index, settings)
        await heard.between()
        watches = Watches(streams, heard.index, settings, heard.hear, heard.wake)
        task = asyncio.ensure_future(watches.run(listed.versions))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_changes_are_heard_once_and_in_their_order(kube: Kube) -> None:
    heard = Heard(kube, kube.namespace("watch-order"))
    await heard.create(SERVICE, "before")
    async with watching(heard):
        await heard.create(SERVICE, "one")
        await heard.delete(SERVICE, "one")
        await heard.create(NETWORK_POLICY, "two")
        await heard.until("ADDED", NETWORK_POLICY, "two")
        await heard.until("DELETED", SERVICE, "one")
    services = [(event, name) for event, kind, name in heard.events if kind == "Service"]
    assert services == [("ADDED", "one"), ("DELETED", "one")], "what the list told is not told again"


async def test_what_happens_while_the_connection_is_down_is_heard_after(kube: Kube, tmp_path: Path) -> None:
    heard = Heard(kube, kube.namespace("watch-cut"))
    async with (
        Relay(kube.server) as relay,
        watching(heard, kubeconfig_of(kube.server, tmp_path, server=relay.url)),
    ):
        await heard.create(SERVICE, "one")
        await heard.until("ADDED", SERVICE, "one")
        relay.cut()
        await heard.delete(SERVICE, "one")
        await heard.create(SERVICE, "two")
        await heard.until("DELETED", SERVICE, "one")
        await heard.until("ADDED", SERVICE, "two")
    assert len(heard.events) == len(set(heard.events)), "nothing is told twice"
    assert heard.woken == [], "it went on from where it was, without a list"


async def give_up(kube: Kube, tmp_path: Path) -> None:
    """Leave a watch and a request to a server that fell silent, and await that it has no clients."""
    heard = Heard(kube, kube.namespace(f"watch-left-{uuid4().hex[:8]}"))
    async with Relay(kube.server) as relay:
        kubeconfig = str(kubeconfig_of(kube.server, tmp_path, server=relay.url))
        async with await Cluster.connect(kubeconfig) as connection:
            listed = await connection.list(SERVICE, heard.namespace)
            await heard.create(SERVICE, "one")
            version = listed["metadata"]["resourceVersion"]
            events = connection.watch(SERVICE, heard.namespace, "", version)
            assert (await anext(events))[0] == "ADDED"
            relay.silent = True
            waiting = [
                asyncio.ensure_future(asking)
                for asking in (anext(events), connection.list(SERVICE, heard.namespace))
            ]
            await relay.dropped.wait()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await relay.left()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nothing_stays_open_to_a_server_that_says_no_more(
    kube: Kube, tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(give_up(kube, tmp_path))


async def test_a_silent_watch_is_begun_anew_without_a_word_or_a_gap(
    kube: Kube, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(cluster, "_SILENCE", 1.0)
    monkeypatch.setattr(watch, "LONGEST_PAUSE", 0.5)
    heard = Heard(kube, kube.namespace("watch-silent"))
    async with watching(heard):
        await heard.awaits(lambda: heard.begun["services"] >= 3)
        await heard.create(SERVICE, "one")
        await heard.until("ADDED", SERVICE, "one")
    assert heard.events == [("ADDED", "Service", "one")]
    assert caplog.text == ""


async def test_where_a_version_is_too_old_a_list_tells_what_was_missed(
    kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "FIRST_PAUSE", 0.05)
    heard = Heard(kube, kube.namespace("watch-old"))
    await heard.create(SERVICE, "goes")

    async def between() -> None:
        await heard.delete(SERVICE, "goes")
        await heard.create(SERVICE, "comes")

    heard.between = between
    async with watching(heard, forgets=["services"]):
        await heard.awaits(lambda: heard.woken)
        services = {
            name for kind, name in heard.index.children((heard.namespace, "digits")) if kind == "Service"
        }
        assert services == {"comes"}
        await heard.create(SERVICE, "later")
        await heard.until("ADDED", SERVICE, "later")


async def test_an_object_that_cannot_be_understood_is_passed_over(
    kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard(kube, kube.namespace("watch-strange"))
    async with watching(heard):
        await heard.create(SERVICE_ACCOUNT, "strange")
        await heard.create(SERVICE_ACCOUNT, "plain")
        await heard.until("ADDED", SERVICE_ACCOUNT, "plain")
    assert f"{heard.namespace}/strange cannot be understood" in caplog.text
