"""Prometheus and web hooks as signals of a rollout: asked for real, judged, held on when silent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from longshore.plan.analysis.questions import Answers, Questions, questions_of, read_prometheus
from longshore.senses import Senses
from longshore.signals import Inquirer

from tests.operator.canary import Canary

Handler = Callable[[web.Request], Any]


def vector(*values: float) -> dict[str, Any]:
    """What Prometheus answers to an instant query, as its HTTP API v1 describes it."""
    result = [{"metric": {"pod": str(i)}, "value": [1.5e9, str(v)]} for i, v in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def inquirer() -> AsyncIterator[Inquirer]:
    made = Inquirer(Senses(), interval=0.05)
    yield made
    await made.close()


def rollout(signal: dict[str, Any], **analysis: Any) -> dict[str, Any]:
    return {"steps": [{"weight": 50}], "analysis": {"signals": [signal], **analysis}}


def metric(address: str, **bounds: float) -> dict[str, Any]:
    query = 'sum(rate(failures{revision="$revision",model="$namespace/$name"}[1m]))'
    return {"name": "business", "type": "Prometheus", "address": address, "query": query, **bounds}


async def go_on(canary: Canary, inquirer: Inquirer, rounds: int) -> None:
    """Ask whatever the plan wants to be asked, every fifth look, as long as it wants to."""
    for _ in range(rounds):
        questions = canary.questions
        answers = await inquirer.ask(questions) if questions else None
        if answers is not None:
            answers = Answers(answers.canary, canary.world.now, answers.metrics, answers.hooks)
        canary.look(answers)
        canary.looks(4)


def stalled(canary: Canary) -> dict[str, Any]:
    return canary.world.condition("Stalled")


async def test_a_relative_bound_that_is_broken_aborts_and_says_by_how_much(inquirer: Inquirer) -> None:
    asked: list[str] = []

    async def prometheus(request: web.Request) -> web.Response:
        assert request.path == "/base/api/v1/query"
        asked.append(request.query["query"])
        return web.json_response(vector(0.5 if f'"{canary.canary}"' in asked[-1] else 0.1))

    async with serving(prometheus) as address:
        canary = Canary(rollout(metric(f"{address}/base/", maxRatio=2)))
        stable = canary.stable
        await go_on(canary, inquirer, 2)
        assert canary.phase == "Stepping", "a spike is not enough"
        await go_on(canary, inquirer, 1)
        canary.looks(5)
    assert any(f'revision="{stable}",model="team/digits"' in query for query in asked)
    assert stalled(canary)["reason"] == "RolloutAborted"
    assert "0.5 is more than 2 times the stable revision's 0.1" in stalled(canary)["message"]
    assert canary.world.condition("Ready")["status"] == "True"


async def test_a_query_with_a_typo_holds_with_the_servers_own_words_and_then_pauses(
    inquirer: Inquirer,
) -> None:
    async def prometheus(request: web.Request) -> web.Response:
        error = 'invalid parameter "query": 1:5: parse error: unclosed left parenthesis'
        return web.json_response({"status": "error", "errorType": "bad_data", "error": error}, status=400)

    async with serving(prometheus) as address:
        canary = Canary(rollout(metric(address, max=1), noDataDeadline="2m"))
        await go_on(canary, inquirer, 4)
        assert canary.world.status["phase"] == "AnalysisError"
        assert "bad_data" in canary.world.status["message"]
        assert "unclosed left parenthesis" in canary.world.status["message"]
        assert stalled(canary)["status"] == "False"
        await go_on(canary, inquirer, 12)
    assert canary.phase == "Stepping", "neither good nor bad"
    assert stalled(canary)["reason"] == "AnalysisError"
    assert "noDataDeadline is 2 min" in stalled(canary)["message"]
    assert "AnalysisError" in canary.world.told()


async def test_no_series_is_no_data_which_holds_and_goes_on_when_there_is_some(inquirer: Inquirer) -> None:
    values: list[float] = []

    async def prometheus(request: web.Request) -> web.Response:
        return web.json_response(vector(*values))

    async with serving(prometheus) as address:
        canary = Canary(rollout(metric(address, max=1), noDataDeadline="1m"))
        await go_on(canary, inquirer, 20)
        assert canary.phase == "Stepping"
        assert stalled(canary)["reason"] == "NoData"
        assert "the query gives no value for the canary" in stalled(canary)["message"]
        values.append(0.5)
        await go_on(canary, inquirer, 30)
    assert canary.world.status["stable"]["revision"] != canary.stable, "promoted"
    assert canary.world.condition("Stalled")["status"] == "False"


async def test_a_web_hook_decides_and_knows_whom_it_is_asked_about(inquirer: Inquirer) -> None:
    told: list[dict[str, Any]] = []

    async def hook(request: web.Request) -> web.Response:
        assert request.method == "POST"
        told.append(await request.json())
        return web.json_response({"verdict": "Fail", "message": "the audit found 3 wrong answers"})

    async with serving(hook) as address:
        canary = Canary(rollout({"name": "audit", "type": "WebHook", "address": address}))
        name = canary.canary
        await go_on(canary, inquirer, 2)
    assert told[0] == {
        "namespace": "team",
        "name": "digits",
        "signal": "audit",
        "canary": name,
        "stable": canary.stable,
        "phase": "Stepping",
    }
    assert stalled(canary)["reason"] == "RolloutAborted"
    assert "the audit found 3 wrong answers" in stalled(canary)["message"]
    assert canary.questions is None, "nobody is asked any more"


async def test_while_it_bakes_nothing_is_held_against_a_revision_without_requests(
    inquirer: Inquirer,
) -> None:
    async def prometheus(request: web.Request) -> web.Response:
        known = f'"{canary.stable}"' not in request.query["query"] or canary.phase == "Stepping"
        return web.json_response(vector(1.0) if known else vector())

    async with serving(prometheus) as address:
        canary = Canary(rollout(metric(address, maxRatio=2), bake="2m"))
        for _ in range(40):
            await go_on(canary, inquirer, 1)
            if canary.phase == "Baking":
                break
        assert canary.phase == "Baking"
        questions = canary.questions
        assert questions is not None
        assert questions.metrics[0].stable is None
        assert questions.hooks == ()
        await go_on(canary, inquirer, 3)
        assert stalled(canary)["status"] == "False"
        await go_on(canary, inquirer, 15)
    assert canary.phase == "Idle"
    assert canary.world.condition("Stalled")["status"] == "False"


def questions(address: str, kind: str = "Prometheus") -> Questions:
    from longshore.api.rollout import Analysis

    signal = {"name": "s", "type": kind, "address": address}
    if kind == "Prometheus":
        signal |= {"query": "up", "max": 1}  # type: ignore[dict-item]
    analysis = Analysis.model_validate({"signals": [signal]})
    return questions_of(analysis, "team", "digits", "new", "old", baking=False)


@pytest.mark.parametrize(
    ("kind", "address", "why"),
    [
        ("Prometheus", "http://127.0.0.1:1", "Cannot connect"),
        ("WebHook", "http://127.0.0.1:1", "Cannot connect"),
        ("Prometheus", "http://169.254.169.254/latest", "link-local"),
        ("WebHook", "http://[fe80::1]/", "link-local"),
        ("WebHook", "http://[::ffff:169.254.169.254]/", "link-local"),
        ("Prometheus", "http://user:secret@127.0.0.1:1", "Cannot connect"),
        ("Prometheus", "http://[", ""),
    ],
)
async def test_what_cannot_be_reached_is_an_error_with_the_cause(
    inquirer: Inquirer, kind: str, address: str, why: str
) -> None:
    answers = await inquirer.ask(questions(address, kind))
    error = answers.metrics["s"][0].error if kind == "Prometheus" else answers.hooks["s"].error
    assert error is not None
    assert why in error
    assert "secret" not in error


async def test_endless_slow_and_redirecting_servers_are_bounded(
    inquirer: Inquirer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore.signals.TIMEOUT", 0.5)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 65536)
        return response

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/")

    for handler, why in ((endless, "larger than"), (slow, "in time"), (away, "HTTP 302")):
        async with serving(handler) as address:
            reading, _ = (await inquirer.ask(questions(address))).metrics["s"]
            assert reading.error is not None
            assert why in reading.error


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (vector(1, 2), "gives 2 series; one is needed"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "gives a matrix"),
        ({"status": "success"}, "no answer of a Prometheus server"),
        (["x"], "no answer of a Prometheus server"),
        ("<html>secret page</html>", "no answer of a Prometheus server"),
    ],
)
def test_an_answer_that_is_not_one_number_is_an_error_that_shows_no_foreign_page(
    body: object, error: str
) -> None:
    found = read_prometheus(200, json.dumps(body).encode())
    assert found.value is None
    assert error in (found.error or "")
    assert "secret" not in (found.error or "")


@pytest.mark.parametrize(("text", "value"), [("0.25", 0.25), ("NaN", None), ("+Inf", None)])
def test_a_number_is_read_and_what_is_none_is_no_value(text: str, value: float | None) -> None:
    scalar = {"status": "success", "data": {"resultType": "scalar", "result": [1.5e9, text]}}
    found = read_prometheus(200, json.dumps(scalar).encode())
    assert (found.value, found.error) == (value, None)


async def test_it_asks_again_and_again_and_never_twice_at_once() -> None:
    under_way, most, asked = 0, 0, asyncio.Event()
    rounds: list[float] = []

    async def prometheus(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return web.json_response(vector(1.0))

    senses = Senses()
    inquirer = Inquirer(senses, interval=0.05)
    key = ("team", "digits")

    def wake(_: tuple[str, str]) -> None:
        rounds.append(senses.answers[key].at)
        if len(rounds) == 3:
            asked.set()

    inquirer.wake = wake
    async with serving(prometheus) as address:
        async with asyncio.timeout(20):
            while not asked.is_set():
                inquirer.inquire(key, questions(address))
                await asyncio.sleep(0.005)
        inquirer.inquire(key, None)
        await inquirer.close()
    assert most == 1
    assert rounds == sorted(set(rounds))
    assert key not in senses.answers, "what was said about an earlier canary is forgotten"
