"""Shadow: requests are copied to the new revision, its answers compared, and no client ever sees one."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from longshore.listen import targets_of
from longshore.plan import mirror
from longshore.plan.mirror import Mirroring
from longshore.resources.names import Owner, mirror_key
from longshore.resources.networkpolicy import serving_policy
from longshore.runtimes.base import COPIES
from longshore.runtimes.onnxruntime import RUNTIME
from longshore.runtimes.triton import RUNTIME as TRITON
from longshore.scrape import Scraper, ScrapeTarget

from e2e.ports import free_ports
from tests.operator.canary import Canary
from tests.server import models
from tests.server.harness import Server

SHADOW: Mapping[str, Any] = {"strategy": "Shadow"}
ROUTE: dict[str, Any] = {"parentRefs": [{"name": "gateway"}], "pathPrefix": "/m"}


def side(canary: Canary) -> str | None:
    obj = canary.world.objects.get(("Service", "digits-canary"))
    return obj["spec"]["selector"]["longshore.dev/revision"] if obj else None


def templates(canary: Canary) -> dict[str, Any]:
    return {
        name: obj["spec"]["template"]
        for (kind, name), obj in canary.world.objects.items()
        if kind == "Deployment"
    }


def test_a_revision_that_answers_alike_is_promoted_and_no_pod_restarts_for_it() -> None:
    canary = Canary(SHADOW)
    first, second, world = canary.stable, canary.canary, canary.world
    before = templates(canary)
    canary.differing = 0.0
    canary.looks(5)
    assert canary.phase == "Stepping"
    assert side(canary) == second, "the copies have a way of their own"
    assert world.selected() == first, "clients stay where they are"
    assert world.status["canary"]["weight"] == 0
    assert "compared answers differ" in world.status["canary"]["evidence"]
    canary.looks(200)
    assert world.selected() == second
    assert world.condition("Stalled")["status"] == "False"
    assert world.names("Service") == ["digits"]
    assert canary.key not in world.senses.mirroring
    assert templates(canary) == before


def test_a_revision_that_answers_otherwise_is_given_up_in_the_words_of_the_signal() -> None:
    canary = Canary(SHADOW)
    first = canary.stable
    canary.differing = 0.3
    canary.looks(30)
    world = canary.world
    assert world.condition("Stalled")["reason"] == "RolloutAborted"
    assert "compared answers differ (30 %, allowed 5 %)" in world.condition("Stalled")["message"]
    assert world.condition("Ready")["status"] == "True"
    assert world.selected() == first
    assert canary.key not in world.senses.mirroring, "nobody is asked to copy any more"


def test_errors_of_the_new_revision_alone_give_it_up_too() -> None:
    canary = Canary(SHADOW)
    canary.differing = 0.0
    canary.errors[canary.canary or ""] = 0.5
    canary.looks(30)
    assert canary.world.condition("Stalled")["reason"] == "RolloutAborted"
    assert "errors" in canary.world.condition("Stalled")["message"]


def test_without_traffic_nothing_is_decided() -> None:
    canary = Canary({**SHADOW, "analysis": {"noDataDeadline": "2m"}}, requests=0)
    canary.differing = 0.0
    canary.looks(30)
    assert canary.phase == "Stepping"
    assert canary.world.status["phase"] == "NoData"
    canary.looks(60)
    assert canary.phase == "Stepping", "neither good nor bad"
    assert canary.world.condition("Stalled")["reason"] == "NoData"
    canary.requests = 40
    canary.looks(200)
    assert canary.world.status["stable"]["revision"] != canary.stable


def test_counters_alone_promote_nobody_whose_answers_were_not_compared() -> None:
    canary = Canary(SHADOW)
    canary.looks(200)
    assert canary.phase == "Stepping"
    assert canary.world.status["stable"]["revision"] == canary.stable
    assert "send copies" in canary.world.status["message"]


def test_pods_that_send_no_copies_are_told_with_what_to_do() -> None:
    canary = Canary(SHADOW)
    canary.unmirrored = "its server was started by an older version"
    canary.looks(10)
    stalled = canary.world.condition("Stalled")
    assert stalled["reason"] == "NotMirrored"
    assert "older version" in stalled["message"]
    canary.world.annotate(longshore_dev_promote="now")
    canary.looks(40)
    assert canary.world.status["stable"]["revision"] != canary.stable


def test_copies_that_nobody_answers_are_told_with_where_they_go() -> None:
    canary = Canary(SHADOW)
    canary.unanswered = True
    canary.looks(10)
    assert canary.phase == "Stepping"
    assert canary.world.condition("Stalled")["reason"] == "NotMirrored"
    assert "none was answered" in canary.world.condition("Stalled")["message"]
    assert "digits-canary.team.svc:80" in canary.world.condition("Stalled")["message"]
    assert canary.key in canary.world.senses.mirroring, "it is tried again"


def test_a_runtime_without_copies_is_told_as_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    series = {name: found for name, found in TRITON.metrics.series.items() if name not in COPIES}
    alone = SimpleNamespace(metrics=replace(TRITON.metrics, series=series))
    monkeypatch.setattr(mirror, "runtime_of", lambda name: alone if name is TRITON.name else None)
    canary = Canary(SHADOW, serving={"runtime": "Triton"})
    fields = canary.world.condition("FieldsSupported")
    assert "spec.rollout.strategy (this runtime copies no requests" in fields["message"]
    canary.looks(5)
    assert canary.world.condition("Stalled")["reason"] == "NotMirrored"
    assert "take another strategy" in canary.world.condition("Stalled")["message"]


def test_shadow_and_agreement_are_supported_where_the_server_is_ours() -> None:
    signals = {"signals": [{"name": "same", "type": "Agreement"}]}
    canary = Canary({**SHADOW, "analysis": signals})
    assert canary.world.condition("FieldsSupported")["status"] == "True"
    preview = Canary({"strategy": "BlueGreen", "steps": [{"weight": 0, "hold": "1h"}], "analysis": signals})
    assert "Agreement needs" in preview.world.condition("FieldsSupported")["message"]


def test_a_canary_with_weight_gets_copies_too_where_agreement_is_asked_for() -> None:
    signals = {"signals": [{"name": "same", "type": "Agreement", "threshold": 0.1}]}
    rollout = {"steps": [{"weight": 25}], "analysis": signals}
    canary = Canary(rollout, serving={"replicas": 3})
    wanted = canary.world.senses.mirroring[canary.key]
    assert wanted.share < 1
    assert canary.world.replicas()[canary.canary or ""] == 1, "as many as its weight needs"
    canary.differing = 0.0
    canary.looks(5)
    assert "compared answers differ" in canary.world.status["canary"]["evidence"]
    canary.looks(400)
    assert canary.world.status["stable"]["revision"] != canary.stable
    other = Canary(rollout)
    other.differing = 0.6
    other.looks(150)
    assert other.world.condition("Stalled")["reason"] == "RolloutAborted"
    assert "same: " in other.world.condition("Stalled")["message"]


def test_an_operator_that_starts_anew_goes_on_with_what_was_compared() -> None:
    canary = Canary(SHADOW)
    canary.differing = 0.0
    canary.looks(10)
    told = canary.world.status["canary"]["evidence"]
    canary.world.restart()
    canary.world.reconcile()
    assert canary.phase == "Stepping"
    assert canary.key in canary.world.senses.mirroring, "the pods are asked again"
    canary.looks(6)
    assert canary.world.status["canary"]["evidence"] != told
    assert "agreement: 0 of" in told
    canary.looks(200)
    assert canary.world.status["stable"]["revision"] != canary.stable


def test_through_a_gateway_the_new_revision_has_no_weight_while_it_is_compared() -> None:
    canary = Canary(SHADOW, route=ROUTE)
    canary.differing = 0.0
    world, second = canary.world, canary.canary
    canary.looks(5)
    (rule,) = world.objects["HTTPRoute", "digits"]["spec"]["rules"]
    assert [backend["weight"] for backend in rule["backendRefs"]] == [100, 0]
    assert side(canary) == second
    assert "compared answers differ" in world.status["canary"]["evidence"]
    canary.looks(200)
    assert world.status["stable"]["revision"] == second


def test_copies_are_no_load_to_scale_by() -> None:
    scaled = Canary(SHADOW, scaling={"min": 1, "max": 10})
    scaled.differing = 0.0
    scaled.looks(5)
    seen = scaled.world.plan().scaled
    assert seen is not None
    assert seen.state.entries[-1].arrivals == pytest.approx(scaled.requests, rel=0.1)


def test_only_pods_of_the_stable_revision_are_asked() -> None:
    canary = Canary(SHADOW)
    wanted = canary.world.senses.mirroring[canary.key]
    targets = targets_of(canary.world.index, canary.key, mirroring=wanted)
    assert {t.revision for t in targets if t.mirroring} == {canary.stable}
    assert len({t.revision for t in targets}) == 2
    variables = {
        variable["name"]: variable["value"]
        for variable in templates(canary)[f"digits-{canary.stable}"]["spec"]["containers"][0]["env"]
    }
    assert variables["LONGSHORE_SERVER_MIRROR_KEY"] == wanted.key
    assert variables["LONGSHORE_SERVER_MIRROR_TARGET"] == "digits-canary.team.svc:80"
    other = mirror_key(Owner("team", "digits", "another-uid"))
    assert other != wanted.key


def test_pods_may_reach_each_other_only_while_copies_are_sent() -> None:
    owner = Owner("team", "digits", "uid")
    assert "egress" not in serving_policy(owner, (8080,), fetches=False)["spec"]
    policy = serving_policy(owner, (8080,), fetches=False, mirrors=True)["spec"]
    pods, names = policy["egress"]
    assert pods["to"] == [{"podSelector": policy["podSelector"]}]
    assert {port["port"] for port in pods["ports"]} == {8080}
    assert {port["port"] for port in names["ports"]} == {53, 5353}


def wanted(key: str) -> Mirroring:
    return Mirroring("a", "b", 1.0, 15.0, 0.01, key)


def target(port: int, mirroring: Mirroring | None) -> ScrapeTarget:
    source = replace(RUNTIME.metrics, port=port)
    return ScrapeTarget("pod", "uid", "a", "127.0.0.1", "0", source, mirroring=mirroring)


async def test_the_operator_and_the_servers_understand_each_other(tmp_path: Path) -> None:
    key = mirror_key(Owner("team", "m", "uid"))
    first, second = models.mlp(tmp_path / "1" / "m"), models.mlp(tmp_path / "2" / "m", seed=3)
    ask = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
    scraper = Scraper()
    try:
        with (
            Server(second) as canary,
            Server(first, "--mirror-target", canary.address, "--mirror-key", key) as stable,
        ):
            answer = stable.infer(ask)
            deadline = time.monotonic() + 30
            values: Mapping[str, float] = {}
            while values.get("differing", 0) < 3:
                assert time.monotonic() < deadline, values
                (reading,) = (await scraper.read([target(stable.http_port, wanted(key))])).readings
                assert reading.unmirrored == ""
                values = reading.values
                assert values["mirroring"] == 1.0
                assert await asyncio.to_thread(stable.infer, ask) == answer
            assert values["compared"] == values["differing"]
            (reading,) = (await scraper.read([target(stable.http_port, wanted("wrong"))])).readings
            assert reading.unmirrored == "HTTP 401"
            (reading,) = (await scraper.read([target(canary.http_port, wanted(key))])).readings
            assert "older version" in reading.unmirrored
            assert reading.values["requests"] > 0, "its counters count all the same"
            heard = await scraper.read([target(free_ports(1)[0], wanted(key))])
            assert heard.readings == ()
            assert "pod" in heard.unanswered
    finally:
        await scraper.close()


async def test_a_pod_that_is_not_asked_to_copy_is_only_read() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        return web.Response(text="longshore_requests_total 7\n")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scraper = Scraper()
    try:
        (reading,) = (await scraper.read([target(runner.addresses[0][1], None)])).readings
    finally:
        await scraper.close()
        await runner.cleanup()
    assert reading.values == {"requests": 7.0}
    assert asked == ["GET /metrics"]
