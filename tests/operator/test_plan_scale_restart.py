"""The operator was away: scaling goes on from what it had learned, without a jump."""

import json
import re
from typing import Any

import pytest
from longshore.plan.scaling import recall
from longshore.plan.scaling.memory import KEPT_FOR

from tests.operator.loaded import Loaded

SCALING: dict[str, Any] = {"min": 1, "max": 12, "metrics": [{"type": "RequestsPerSecond", "target": 30}]}


def busy(scaling: dict[str, Any] | None = None, rate: float = 120.0) -> Loaded:
    """Give a model that has been under steady load for a while."""
    loaded = Loaded(scaling or SCALING, rate=rate)
    loaded.tick(200)
    return loaded


def away(loaded: Loaded, seconds: float) -> None:
    """End the operator, let traffic go on without it, and start it again."""
    loaded.world.now += seconds
    for counts in loaded.counted.values():
        done = loaded.rate * seconds / len(loaded.pods())
        counts[0] += done
        counts[1] += done * loaded.run
    loaded.world.restart()


def test_ten_minutes_without_the_operator_change_no_number() -> None:
    loaded = busy()
    before = loaded.replicas()
    assert before > 2
    away(loaded, 600)
    seen = set()
    for _ in range(150):
        loaded.tick()
        seen.add(loaded.replicas())
    assert seen == {before}


def test_load_that_grew_meanwhile_is_met_by_need_and_at_once() -> None:
    loaded = busy()
    before = loaded.replicas()
    away(loaded, 600)
    loaded.rate *= 2
    loaded.tick(8)
    assert before < loaded.replicas() <= 2 * before + 1


def test_what_was_learned_outlives_a_restart() -> None:
    loaded = busy()
    key = (loaded.world.namespace, loaded.world.name)
    kept = loaded.world.status["scaling"]
    assert loaded.world.now - kept["at"] <= KEPT_FOR + 2
    known = loaded.world.senses.scaled[key].state
    loaded.world.restart()
    loaded.tick()
    again = loaded.world.senses.scaled[key].state
    assert [name for name, _ in again.fits] == [name for name, _ in known.fits]
    assert again.readiness_seconds == pytest.approx(known.readiness_seconds, rel=0.01)
    assert dict(again.fits)[known.fits[0][0]].curve(1, 1).base == pytest.approx(  # type: ignore[union-attr]
        dict(known.fits)[known.fits[0][0]].curve(1, 1).base,  # type: ignore[union-attr]
        abs=1e-3,
    )


def test_status_is_written_seldom_and_stays_small() -> None:
    weekly = {**SCALING, "forecast": {"period": "168h"}}
    loaded = busy(weekly)
    first = len([w for w in loaded.world.writes if w.endswith("/status")])
    loaded.tick(300)
    written = len([w for w in loaded.world.writes if w.endswith("/status")]) - first
    assert written <= 600 / KEPT_FOR + 1
    assert len(json.dumps(loaded.world.status["scaling"])) < 4096


def test_a_forecast_outlives_a_restart() -> None:
    loaded = busy({**SCALING, "forecast": {"period": "1h"}})
    loaded.tick(800)
    known = recall(loaded.world.status["scaling"]).seasonal
    assert known is not None
    assert sum(rate >= 0 for rate in known.bins) > 5
    away(loaded, 30)
    loaded.tick()
    again = loaded.world.senses.scaled[loaded.world.namespace, loaded.world.name].state.seasonal
    assert again is not None
    assert again.bins == known.bins


def test_a_forecast_is_told_with_its_error_now_and_then_and_once() -> None:
    loaded = busy({**SCALING, "forecast": {"period": "1h"}})
    assert "forecast: no season has been seen yet" in loaded.world.condition("Scaled")["message"]
    season = loaded.world.root["status"]["scaling"]["learned"]["seasonal"]
    season |= {"bins": [90.0] * len(season["bins"]), "judged": 30, "error": 0.125}
    away(loaded, 30)
    loaded.tick(int(KEPT_FOR / 2) + 1)
    told = loaded.world.condition("Scaled")["message"]
    assert re.search(r"; forecast: [0-9]+ rps in [0-9]+ s, off by 1[0-9]% on average$", told)
    away(loaded, 30)
    loaded.tick(3)
    assert loaded.world.condition("Scaled")["message"].count("forecast: ") == 1
    loaded.world.edit(scaling=SCALING)
    loaded.tick(3)
    assert "forecast" not in loaded.world.condition("Scaled")["message"]


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"at": "soon", "learned": 3},
        {"at": 1e9, "learned": {"fits": "none"}},
        {"at": 1e9, "learned": {"seasonal": {"period": 0, "bins": []}}},
        {"at": float("nan"), "learned": {}},
    ],
)
def test_what_cannot_be_read_is_begun_anew(kept: dict[str, Any]) -> None:
    assert recall(kept).fits == ()
    assert recall(kept).seasonal is None
