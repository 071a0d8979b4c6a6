"""HPA and ScaledObject from the same block: exact objects, and what they cannot say is named."""

from longshore.api.scaling import Scaling
from longshore.resources.hpa import ScaleTarget, horizontal_pod_autoscaler
from longshore.resources.names import Owner
from longshore.resources.scaledobject import scaled_object

OWNER = Owner("team", "digits", "uid-1")


def scaling(**fields: object) -> Scaling:
    return Scaling.model_validate(fields)


def test_hpa_of_cpu_and_rate():
    block = scaling(
        min=2,
        max=9,
        engine="HPA",
        metrics=[{"type": "Cpu", "target": 70}, {"type": "RequestsPerSecond", "target": 12.5}],
    )
    rendered = horizontal_pod_autoscaler(OWNER, block)
    assert rendered.object["metadata"] == OWNER.metadata("digits")
    spec = rendered.object["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "longshore.dev/v1alpha1",
        "kind": "ModelDeployment",
        "name": "digits",
    }
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 9)
    assert spec["metrics"] == [
        {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
        },
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": "longshore_requests_per_second"},
                "target": {"type": "AverageValue", "averageValue": "12500m"},
            },
        },
    ]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 120
    assert "custom.metrics.k8s.io" in " ".join(rendered.unexpressed)


def test_hpa_names_what_it_cannot_say():
    block = scaling(
        min=0,
        max=9,
        metrics=[
            {"type": "Latency", "duration": "50ms"},
            {"type": "Prometheus", "target": 5, "query": "up", "serverAddress": "http://p:9090"},
        ],
        forecast={},
        budget={"maxReplicas": 5},
        warm=1,
        panicWindow="4s",
        schedules=[{"start": "0 8 * * *", "duration": "1h", "min": 3}],
    )
    rendered = horizontal_pod_autoscaler(OWNER, block, ScaleTarget("apps/v1", "Deployment", "digits-abc"))
    told = "\n".join(rendered.unexpressed)
    for word in ("min 0", "Latency", "Prometheus", "forecast", "budget", "warm", "panicWindow", "schedules"):
        assert word in told
    assert rendered.object["spec"]["minReplicas"] == 1
    assert rendered.object["spec"]["scaleTargetRef"]["name"] == "digits-abc"
    assert rendered.object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 80


def test_scaled_object_reads_the_models_own_pods_and_holds_on_null():
    block = scaling(min=0, max=9, engine="KEDA", metrics=[{"type": "RequestsPerSecond", "target": 20}])
    rendered = scaled_object(OWNER, block, "http://prometheus:9090")
    spec = rendered.object["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["cooldownPeriod"]) == (0, 9, 300)
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert 'namespace="team",longshore_dev_name="digits"' in trigger["metadata"]["query"]
    assert trigger["metadata"]["threshold"] == "20"
    assert "fallback" not in spec, "a number to fall back to would scale down where data is missing"
    assert "Builtin wakes at once" in " ".join(rendered.unexpressed)


def test_scaled_object_schedules_become_cron_where_they_can():
    block = scaling(
        min=1,
        max=9,
        metrics=[{"type": "Cpu", "target": 60}],
        schedules=[
            {"start": "30 8 * * mon-fri", "duration": "90m", "min": 4, "timeZone": "Europe/Berlin"},
            {"start": "0 23 * * *", "duration": "2h", "min": 3},
            {"start": "*/5 * * * *", "duration": "1m", "min": 3},
        ],
    )
    rendered = scaled_object(OWNER, block, None)
    crons = [t["metadata"] for t in rendered.object["spec"]["triggers"] if t["type"] == "cron"]
    assert crons == [
        {
            "timezone": "Europe/Berlin",
            "start": "30 8 * * mon-fri",
            "end": "0 10 * * mon-fri",
            "desiredReplicas": "4",
        }
    ]
    assert "schedules[1]" in " ".join(rendered.unexpressed)
    assert "schedules[2]" in " ".join(rendered.unexpressed)


def test_keda_cannot_wake_by_cpu_and_says_so():
    rendered = scaled_object(OWNER, scaling(min=0, max=4, metrics=[{"type": "Cpu", "target": 60}]), None)
    assert rendered.object["spec"]["minReplicaCount"] == 1
    assert "cannot wake" in " ".join(rendered.unexpressed)


def test_signal_without_a_prometheus_is_named():
    rendered = scaled_object(OWNER, scaling(max=4, metrics=[{"type": "Pending", "target": 3}]), None)
    assert "no address" in " ".join(rendered.unexpressed)
    assert rendered.object["spec"]["triggers"][0]["type"] == "cpu"
