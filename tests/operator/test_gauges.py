"""Asking a Prometheus server for scaling: in the background, seldom, with an end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from longshore.gauges import Gauges
from longshore.plan.scaling.queries import MetricQuery
from longshore.senses import Senses

from tests.waiting import until

KEY = ("team", "digits")


class Prometheus:
    """A server that answers as Prometheus does: `down`, `slow` and `many` are queries of their own."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.address = ""
        self.hold = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        query = request.query["query"]
        self.asked.append(query)
        if query == "slow":
            await self.hold.wait()
        if query == "bad":
            error = {"status": "error", "errorType": "bad_data", "error": "unknown function"}
            return web.json_response(error, status=400)
        if query == "down":
            return web.Response(status=502, text="<html>secret</html>")
        series = {"metric": {}, "value": [1.0, "7.5"]}
        result = {"none": [], "many": [series, series]}.get(query, [series])
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})


@pytest.fixture
async def prometheus() -> AsyncIterator[Prometheus]:
    found = Prometheus()
    application = web.Application()
    application.router.add_get("/path/api/v1/query", found.answer)
    async with TestServer(application) as server:
        found.address = str(server.make_url("/path/"))
        yield found
        found.hold.set()


@pytest.fixture
async def gauges() -> AsyncIterator[tuple[Gauges, Senses]]:
    senses = Senses()
    made = Gauges(senses, clock=lambda: 1000.0, interval=0.05)
    yield made, senses
    await made.close()


async def test_answers_come_with_their_time_and_failures_as_sentences(
    prometheus: Prometheus, gauges: tuple[Gauges, Senses]
) -> None:
    made, senses = gauges
    names = ("sum(x)", "none", "many", "bad", "down")
    made.follow(KEY, tuple(MetricQuery(i, prometheus.address, q) for i, q in enumerate(names)))
    await until(lambda: KEY in senses.external)
    found = senses.external[KEY]
    assert (found[0].value, found[0].at, found[0].error) == (7.5, 1000.0, "")
    assert "no series" in found[1].error
    assert "2 series" in found[2].error
    assert found[3].error == "bad_data: unknown function"
    assert "HTTP 502" in found[4].error
    assert "secret" not in found[4].error


async def test_a_server_that_is_gone_is_an_answer_too(gauges: tuple[Gauges, Senses]) -> None:
    made, senses = gauges
    made.follow(KEY, (MetricQuery(0, "http://127.0.0.1:9", "up"),))
    await until(lambda: KEY in senses.external)
    assert senses.external[KEY][0].value is None
    assert senses.external[KEY][0].error


async def test_one_round_at_a_time_and_not_more_often_than_the_interval(
    prometheus: Prometheus, gauges: tuple[Gauges, Senses]
) -> None:
    made, senses = gauges
    slow = (MetricQuery(0, prometheus.address, "slow"),)
    for _ in range(5):
        made.follow(KEY, slow)
        await asyncio.sleep(0.02)
    await until(lambda: prometheus.asked)
    assert prometheus.asked == ["slow"]
    prometheus.hold.set()
    await until(lambda: KEY in senses.external)
    made.follow(KEY, slow)
    await until(lambda: len(prometheus.asked) == 2)


async def test_other_queries_replace_the_old_ones_and_none_forgets_all(
    prometheus: Prometheus, gauges: tuple[Gauges, Senses]
) -> None:
    made, senses = gauges
    made.follow(KEY, (MetricQuery(0, prometheus.address, "slow"),))
    await until(lambda: prometheus.asked)
    made.follow(KEY, (MetricQuery(0, prometheus.address, "fast"),))
    await until(lambda: KEY in senses.external)
    assert prometheus.asked == ["slow", "fast"]
    made.follow(KEY, ())
    assert KEY not in senses.external
