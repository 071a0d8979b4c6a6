"""Scaling by PromQL and by GPU utilization: followed, held while Prometheus is down, and that is said."""

from collections.abc import Mapping
from typing import Any

import pytest
from longshore.api import Spec
from longshore.api.parse import parse_spec
from longshore.plan.scaling import External, Waiting
from longshore.plan.scaling.queries import MetricQuery, gpu_query, queries_of
from longshore.plan.state import ActivatorView
from longshore.settings import Settings

from tests.operator.loaded import Loaded

PROMQL = {"type": "Prometheus", "query": "sum(jobs)", "serverAddress": "http://prometheus:9090", "target": 10}
GPU = {"type": "Gpu", "target": 80}
KEY = ("team", "digits")


def told(loaded: Loaded, value: float | None, error: str = "", ticks: int = 40) -> None:
    """Let Prometheus answer this for a while."""
    for _ in range(ticks):
        loaded.world.senses.external[KEY] = {0: External(value, loaded.world.now, error)}
        loaded.tick()


def scaling(*metrics: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"min": 1, "max": 10, "metrics": list(metrics), **more}


def spec(*metrics: Mapping[str, Any], **more: Any) -> Spec:
    return parse_spec({"model": {"uri": "https://m.example/a.onnx"}, "scaling": scaling(*metrics, **more)})


def test_a_query_decides_and_the_sentence_names_it() -> None:
    loaded = Loaded(scaling(PROMQL))
    told(loaded, 42.0)
    assert loaded.replicas() == 5
    assert "query gives 42, target 10 a pod" in loaded.world.condition("Scaled")["message"]
    assert loaded.world.condition("FieldsSupported")["status"] == "True"


def test_a_prometheus_that_is_down_holds_the_number_and_is_told() -> None:
    loaded = Loaded(scaling(PROMQL))
    told(loaded, 42.0)
    told(loaded, None, "no answer in time", 200)
    assert loaded.replicas() == 5
    condition = loaded.world.condition("Scaled")
    assert (condition["status"], condition["reason"]) == ("Unknown", "Held")
    assert "Prometheus: no answer in time; check the address" in condition["message"]
    told(loaded, 12.0, ticks=200)
    assert loaded.replicas() == 2
    assert loaded.world.condition("Scaled")["status"] == "True"


def test_a_prometheus_that_is_down_keeps_no_other_signal_from_scaling_up() -> None:
    loaded = Loaded(scaling(PROMQL, {"type": "RequestsPerSecond", "target": 10}), rate=35)
    told(loaded, None, "connection refused")
    assert loaded.replicas() == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.0])
def test_no_number_is_no_load(value: float) -> None:
    loaded = Loaded(scaling(PROMQL))
    told(loaded, 42.0)
    told(loaded, value, ticks=150)
    assert loaded.replicas() == 5
    assert "no number of at least 0" in loaded.world.condition("Scaled")["message"]


def test_an_answer_that_is_old_is_not_used() -> None:
    loaded = Loaded(scaling(PROMQL))
    told(loaded, 42.0)
    loaded.tick(100)
    assert loaded.replicas() == 5
    assert "s old" in loaded.world.condition("Scaled")["message"]


def test_work_elsewhere_wakes_a_model_and_keeps_it_awake() -> None:
    loaded = Loaded(scaling(PROMQL, min=0, idleAfter="20s"), settings=Settings(activator_token="/token"))
    view = ActivatorView(("10.0.0.7",), 20000, 20001, Waiting(accepted=0.0))
    loaded.world.senses.activators = lambda key: view
    told(loaded, 3.0, ticks=60)
    assert loaded.replicas() == 1
    told(loaded, 0.0, ticks=60)
    assert loaded.replicas() == 0
    told(loaded, None, "connection refused", ticks=5)
    assert loaded.replicas() == 0
    assert loaded.world.condition("Scaled")["reason"] == "Held"
    told(loaded, 25.0, ticks=3)
    assert loaded.replicas() == 3


def test_gpu_utilization_of_the_exporter_stands_in_for_pods_that_report_none() -> None:
    loaded = Loaded(scaling(GPU), rate=20, settings=Settings(prometheus="http://prometheus:9090"))
    told(loaded, 100.0, ticks=2)
    assert loaded.replicas() == 2
    told(loaded, 80.0, ticks=3)
    assert loaded.replicas() == 2
    assert "GPU" in loaded.world.condition("Scaled")["message"]
    (query,) = loaded.world.plan().queries
    assert query.address == "http://prometheus:9090"
    revision = next(iter(loaded.world.replicas()))
    assert f'pod=~"digits-{revision}-.+"' in query.query


def test_without_a_prometheus_gpu_utilization_is_held_and_the_next_step_is_told() -> None:
    loaded = Loaded(scaling(GPU), rate=20)
    loaded.tick(5)
    assert loaded.replicas() == 1
    assert "monitoring.prometheus" in loaded.world.condition("Scaled")["message"]
    assert loaded.world.plan().queries == ()


def test_only_the_builtin_engine_asks() -> None:
    wanted = (MetricQuery(0, "http://prometheus:9090", "sum(jobs)"),)
    assert queries_of(spec(PROMQL), "team", "digits-a", None, False) == wanted
    assert queries_of(spec(PROMQL, engine="HPA"), "team", "digits-a", None, False) == ()
    assert queries_of(spec(GPU), "team", "digits-a", "http://p", True) == ()
    assert queries_of(spec(GPU), "team", "digits-a", "http://p", False)[0].query.startswith("avg(DCGM_")


def test_a_dot_in_a_name_stands_for_itself() -> None:
    assert 'pod=~"a[.]b-1-.+"' in gpu_query("team", "a.b-1")
