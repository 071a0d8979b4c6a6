"""ScaledObjects on a real API server that knows KEDA's real kind; the test plays KEDA."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longshore.api.scaling import Scaling, Signal
from longshore.resources.names import Owner
from longshore.resources.scaledobject import scaled_object
from longshore.settings import Settings

from e2e.cluster import addons
from e2e.cluster.apiserver import ApiServer
from tests.kube import Kube, Object, model, models_path
from tests.operator.driver import Driver

pytestmark = pytest.mark.apiserver

KEDA = "/apis/keda.sh/v1alpha1"
PROMETHEUS = "http://prometheus.monitoring:9090"


@pytest.fixture(scope="module", autouse=True)
def keda(apiserver: ApiServer, kube: Kube) -> None:
    """Install the kind ScaledObject; one that was just installed is answered with 429 for a moment."""
    addons.install_keda_kinds(apiserver.kubeconfig, lambda line: None)
    kube.items(f"{KEDA}/scaledobjects")


def _metric(signal: Signal, number: float, length: str) -> dict[str, Any]:
    if signal in (Signal.LATENCY, Signal.QUEUE_TIME):
        return {"type": signal, "duration": length}
    extra = {"query": "sum(up)", "serverAddress": PROMETHEUS} if signal is Signal.PROMETHEUS else {}
    return {"type": signal, "target": number, **extra}


LENGTHS = st.sampled_from(["1s", "90m", "6h", "168h", "1000ms"])
METRICS = st.builds(_metric, st.sampled_from(Signal), st.floats(1e-9, 1e9, exclude_min=True), LENGTHS)
SCHEDULES = st.fixed_dictionaries(
    {
        "start": st.sampled_from(["0 8 * * *", "59 23 1 1 0", "30 8 * * mon-fri", "*/5 * * * *"]),
        "duration": LENGTHS,
        "min": st.integers(0, 1000),
    },
    optional={"timeZone": st.sampled_from(["UTC", "Europe/Berlin"])},
)
BLOCKS = st.fixed_dictionaries(
    {"engine": st.just("KEDA"), "min": st.integers(0, 1000)},
    optional={
        "max": st.just(1000),
        "metrics": st.lists(METRICS, max_size=8),
        "schedules": st.lists(SCHEDULES, max_size=16),
        "idleAfter": LENGTHS,
        "stableWindow": LENGTHS,
        "panicWindow": LENGTHS,
        "warm": st.integers(0, 10),
        "forecast": st.just({}),
        "budget": st.just({"maxReplicas": 5}),
    },
)


@given(block=BLOCKS, prometheus=st.sampled_from([None, PROMETHEUS]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_block_gives_a_scaled_object_that_the_api_server_takes(
    kube: Kube, block: dict[str, Any], prometheus: str | None
) -> None:
    rendered = scaled_object(Owner("default", "digits", "uid-1"), Scaling.model_validate(block), prometheus)
    query = "fieldManager=longshore&fieldValidation=Strict&dryRun=All"
    answer = kube.call(
        "PATCH",
        f"{KEDA}/namespaces/default/scaledobjects/digits?{query}",
        rendered.object,
        "application/apply-patch+yaml",
    )
    assert answer.status in (200, 201), (answer.message, rendered.object)


def test_a_field_that_keda_does_not_know_would_be_refused(kube: Kube) -> None:
    """The check of the test above bites."""
    rendered = scaled_object(Owner("default", "digits", "uid-1"), Scaling.model_validate({"max": 4}), None)
    query = "fieldManager=longshore&fieldValidation=Strict&dryRun=All"
    spec = {**rendered.object["spec"], "cooldownPeriods": 5}
    answer = kube.call(
        "PATCH",
        f"{KEDA}/namespaces/default/scaledobjects/digits?{query}",
        {**rendered.object, "spec": spec},
        "application/apply-patch+yaml",
    )
    assert "cooldownPeriods" in answer.message


def _scaled(driver: Driver) -> Object | None:
    return driver.kube.get(f"{KEDA}/namespaces/{driver.namespace}/scaledobjects/digits")


async def test_keda_scales_the_model_and_neither_writes_what_the_other_wrote(kube: Kube) -> None:
    async with Driver(kube, "keda-scales", Settings(prometheus=PROMETHEUS)) as driver:
        place = models_path(driver.namespace, "digits")
        scaling = {"engine": "KEDA", "min": 1, "max": 5, "metrics": [{"type": "Concurrency", "target": 4}]}
        kube.apply(
            place,
            model(
                "digits",
                {"model": {"uri": "https://models.example/m.onnx"}, "scaling": scaling},
                driver.namespace,
            ),
            "git",
        )
        await driver.settle(patience=4)
        found = _scaled(driver)
        assert found is not None
        assert found["spec"]["scaleTargetRef"]["kind"] == "ModelDeployment"

        # As KEDA does: a finalizer, a label and a status of its own, and the number through the subresource.
        name = f"{KEDA}/namespaces/{driver.namespace}/scaledobjects/digits"
        label = {"scaledobject.keda.sh/name": "digits"}
        kube.merge(name, {"metadata": {"finalizers": ["finalizer.keda.sh"], "labels": label}})
        ready = {"type": "Ready", "status": "True", "reason": "ScaledObjectReady", "message": "ready"}
        kube.merge(f"{name}/status", {"status": {"hpaName": "keda-hpa-digits", "conditions": [ready]}})
        kube.merge(f"{place}/scale", {"spec": {"replicas": 3}})
        await driver.settle(patience=4)
        (deployment,) = driver.items("apps/v1", "deployments")
        assert deployment["spec"]["replicas"] == 3
        found = _scaled(driver)
        assert found is not None
        assert found["metadata"]["finalizers"] == ["finalizer.keda.sh"]
        assert found["metadata"]["labels"]["scaledobject.keda.sh/name"] == "digits"
        await driver.restart()
        assert await driver.settle() == []
        assert driver.root()["spec"]["serving"]["replicas"] == 3

        kube.merge(place, {"spec": {"scaling": {"engine": "Builtin"}}})
        await driver.settle(patience=4)
        found = _scaled(driver)
        assert found is not None
        assert found["metadata"]["deletionTimestamp"], "it goes once KEDA lets go of it"
        kube.merge(name, {"metadata": {"finalizers": None}})
        assert _scaled(driver) is None
        assert await driver.settle() == []
