"""What pods tell of a canary: predictions that shift, answers that differ, and sides that are silent."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from aiohttp import web
from longshore.listen import targets_of
from longshore.plan.telemetry import parse_predictions
from longshore.runtimes.base import MetricSource, Series
from longshore.scrape import Scraper, ScrapeTarget

from tests.operator.canary import Canary

DRIFT = {
    "steps": [{"weight": 50}],
    "analysis": {"signals": [{"name": "drift", "type": "Distribution"}]},
}


def classes(shares: Mapping[int, float], count: int) -> dict[int, int]:
    return {place: int(count * share) for place, share in shares.items()}


def normal_bins(count: int, center: int, seed: int) -> dict[int, int]:
    drawn = np.random.default_rng(seed).normal(center, 12.0, count).astype(int)
    return dict(Counter(map(int, drawn)))


def predicting(canary: Canary, new: dict[int, float], old: dict[int, float]) -> None:
    canary.predict = lambda revision, count: {
        "class": classes(new if revision == canary.canary else old, count)
    }


def test_a_canary_that_predicts_other_classes_is_given_up_though_it_answers_well() -> None:
    canary = Canary(DRIFT)
    predicting(canary, {0: 0.1, 1: 0.8, 2: 0.1}, {0: 0.4, 1: 0.3, 2: 0.3})
    canary.looks(30)
    assert canary.world.condition("Stalled")["reason"] == "RolloutAborted"
    assert "drift (classes): PSI" in canary.world.condition("Stalled")["message"]


def test_a_canary_whose_outputs_move_is_given_up_by_their_distribution() -> None:
    canary = Canary(DRIFT)
    new = canary.canary
    canary.predict = lambda revision, count: {
        "value": normal_bins(count, 1020 if revision == new else 1000, seed=1)
    }
    canary.looks(30)
    assert canary.world.condition("Stalled")["reason"] == "RolloutAborted"
    assert "KS" in canary.world.condition("Stalled")["message"]


def test_a_canary_that_predicts_alike_is_promoted_and_the_pods_are_asked_only_meanwhile() -> None:
    canary = Canary(DRIFT)
    assert canary.key in canary.world.senses.predicting
    assert all(target.predictions for target in targets_of(canary.world.index, canary.key, predictions=True))
    predicting(canary, {0: 0.4, 1: 0.3, 2: 0.3}, {0: 0.4, 1: 0.3, 2: 0.3})
    canary.looks(150)
    assert canary.world.status["stable"]["revision"] != canary.stable
    assert canary.key not in canary.world.senses.predicting
    assert canary.world.condition("FieldsSupported")["status"] == "True"


def test_predictions_that_nobody_tells_are_no_data_and_hold() -> None:
    canary = Canary(DRIFT)
    canary.looks(200)
    assert canary.phase == "Stepping"
    assert "drift: 0 canary predictions" in canary.world.status["message"]


def test_what_stood_before_the_canary_says_nothing() -> None:
    """The stable pods have counted for days, mostly a class that is rare at this hour: both now see alike."""
    canary = Canary(DRIFT)
    days = {9: 1_000_000}
    canary.predict = lambda revision, count: {
        "class": classes({0: 0.5, 1: 0.5}, count) | (days if revision == canary.stable else {})
    }
    canary.looks(150)
    assert canary.world.status["stable"]["revision"] != canary.stable


def test_a_restarted_operator_gathers_anew_and_ends_in_the_same_place() -> None:
    canary = Canary(DRIFT)
    predicting(canary, {0: 0.1, 1: 0.8, 2: 0.1}, {0: 0.4, 1: 0.3, 2: 0.3})
    canary.looks(10)
    assert canary.phase == "Stepping"
    canary.world.restart()
    canary.looks(30)
    assert canary.world.condition("Stalled")["reason"] == "RolloutAborted"


def test_mirrored_answers_that_differ_too_often_are_a_signal() -> None:
    signals = {"signals": [{"name": "same", "type": "Agreement", "threshold": 0.05}]}
    canary = Canary({"steps": [{"weight": 50}], "analysis": signals})
    canary.extra[canary.stable] = {"compared": 0.5, "differing": 0.1}
    canary.looks(20)
    assert canary.world.condition("Stalled")["reason"] == "RolloutAborted"
    assert "compared answers differ" in canary.world.condition("Stalled")["message"]


def test_stable_pods_that_cannot_be_asked_hold_the_rollout_and_judge_nobody() -> None:
    canary = Canary({"steps": [{"weight": 50}], "analysis": {"noDataDeadline": "2m"}})
    canary.looks(12)
    canary.unheard.add(canary.stable)
    canary.looks(30)
    assert canary.phase == "Stepping"
    assert "counters cannot be read" in canary.world.status["message"]
    assert "no route to host" in canary.world.status["message"]
    canary.looks(60)
    assert canary.world.condition("Stalled")["reason"] == "AnalysisError"
    canary.unheard.clear()
    canary.looks(150)
    assert canary.world.status["stable"]["revision"] != canary.stable


async def test_a_pod_tells_its_predictions_with_its_counters_or_only_these() -> None:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text="longshore_requests_total 7\n")

    async def predictions(request: web.Request) -> web.Response:
        return web.Response(
            text='longshore_predictions_total{model="a\\"}",version="1",kind="class",bin="3"} 5\n'
        )

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/predictions", predictions)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    series = {"requests": (Series("longshore_requests_total"),)}
    scraper = Scraper()
    found = {}
    for path in ("/predictions", "/missing", ""):
        source = MetricSource(runner.addresses[0][1], "/metrics", series, path)
        target = ScrapeTarget("pod", "uid", "revision", "127.0.0.1", "0", source, True)
        (found[path],) = (await scraper.read([target])).readings
    await scraper.close()
    await runner.cleanup()
    assert all(reading.values == {"requests": 7} for reading in found.values())
    assert [reading.predictions for reading in found.values()] == [{"class": {3: 5}}, {}, {}]


def test_what_a_hostile_pod_tells_is_bounded() -> None:
    line = 'longshore_predictions_total{{kind="class",bin="{}"}} 1\n'
    many = "".join(line.format(i) for i in range(100_000))
    assert len(parse_predictions(many)["class"]) == 4096
    assert parse_predictions(line.format("-1") + line.format("9" * 30) + "longshore_predictions_total{") == {}
