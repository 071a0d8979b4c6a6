"""The lease against a real API server that is slow to answer, or does not answer: two never work at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from longshore.cluster import Cluster
from longshore.lease import Lease, Times
from longshore.resources.kinds import LEASE, Kind

from tests.kube import Kube
from tests.waiting import until

TIMES = Times(duration=3.0, renew_deadline=2.0, retry=0.1)
NAME = "longshore-operator"


class SlowCluster(Cluster):
    """A connection whose requests are noted, and wait for what `delay` gives."""

    asked: list[str]
    delay: Callable[[], Awaitable[None]] | None

    async def _request(self, kind: Kind, method: str, path: str, *more: Any, **named: Any) -> dict[str, Any]:
        self.asked.append(method)
        if self.delay is not None:
            await self.delay()
        return await super()._request(kind, method, path, *more, **named)


async def connect(kube: Kube) -> SlowCluster:
    cluster = await SlowCluster.connect(str(kube.server.kubeconfig))
    cluster.asked, cluster.delay = [], None
    return cluster


class Worker:
    """Works until it is cancelled; tells when it began and ended by the monotonic clock."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended_at = 0.0

    async def __call__(self) -> None:
        """Work."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended_at = time.monotonic()


async def never() -> None:
    await asyncio.Event().wait()


async def test_one_request_renews_what_is_held(kube: Kube) -> None:
    namespace = kube.namespace("lease-renewed")
    async with await connect(kube) as cluster:
        work = Worker()
        leading = asyncio.ensure_future(Lease(cluster, namespace, NAME, "one", TIMES).lead(work))
        await until(lambda: cluster.asked.count("PUT") >= 5)
        assert cluster.asked[:2] == ["GET", "POST"]
        assert set(cluster.asked[2:]) == {"PUT"}
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        held = await cluster.get(LEASE, namespace, NAME)
    assert held is not None
    assert held["spec"]["holderIdentity"] == "", "it is given back"


async def test_a_lease_that_somebody_touched_is_renewed_all_the_same(kube: Kube) -> None:
    namespace = kube.namespace("lease-touched")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{NAME}"
    async with await connect(kube) as cluster:
        work = Worker()
        leading = asyncio.ensure_future(Lease(cluster, namespace, NAME, "one", TIMES).lead(work))
        await work.began.wait()
        kube.merge(path, {"metadata": {"annotations": {"who": "somebody"}}})
        await until(lambda: cluster.asked.count("GET") >= 2)
        before = cluster.asked.count("PUT")
        await until(lambda: cluster.asked.count("PUT") >= before + 3)
        assert not leading.done()
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


async def test_answers_that_take_half_of_the_deadline_do_not_end_the_work(kube: Kube) -> None:
    namespace = kube.namespace("lease-slow")
    async with await connect(kube) as cluster:
        work = Worker()
        leading = asyncio.ensure_future(Lease(cluster, namespace, NAME, "one", TIMES).lead(work))
        await work.began.wait()
        cluster.delay = lambda: asyncio.sleep(0.4 * TIMES.renew_deadline)
        asked = len(cluster.asked)
        await until(lambda: len(cluster.asked) >= asked + 5)
        assert not leading.done()
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


async def test_the_work_has_ended_before_another_one_may_begin(kube: Kube) -> None:
    """The holder hears nothing more of the API server: it ends in time by its own clock."""
    namespace = kube.namespace("lease-lost")
    async with await connect(kube) as near, await connect(kube) as far:
        one, two = Worker(), Worker()
        first = asyncio.ensure_future(Lease(far, namespace, NAME, "one", TIMES).lead(one))
        await one.began.wait()
        second = asyncio.ensure_future(Lease(near, namespace, NAME, "two", TIMES).lead(two))
        await until(lambda: far.asked.count("PUT") >= 2)
        far.delay = never
        async with asyncio.timeout(20):
            await two.began.wait()
        began = time.monotonic()
        assert 0 < one.ended_at < began
        assert began - one.ended_at > 0.5 * (TIMES.duration - TIMES.renew_deadline)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
