"""Scaling on a real cluster: to zero and back without a lost request."""

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment, request_body
from e2e.kit.models import classifier
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]

GOOD = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
ROW = {"x": np.eye(4, dtype=np.float32)[:1]}
ZERO = {"min": 0, "max": 2, "idleAfter": "10s", "stableWindow": "10s"}


def asleep(model: ModelDeployment, kube: Kube) -> bool:
    """Tell whether no pod of the model is left."""
    assert model.read()["status"]["stable"]["replicas"] == 0
    return not kube.list("pods", model.namespace, f"longshore.dev/name={model.name}")


async def burst(url: str, count: int) -> Counter[str]:
    """Ask `count` times at once, each on a connection of its own."""
    body = request_body(ROW)

    async def ask() -> str:
        async with httpx.AsyncClient(timeout=60) as client:
            try:
                return str((await client.post(url, content=body)).status_code)
            except httpx.HTTPError as error:
                return f"{type(error).__name__}: {error}"

    return Counter(await asyncio.gather(*(ask() for _ in range(count))))


def test_a_model_goes_to_zero_and_wakes_under_a_burst_with_nothing_lost(
    deployment: New, push: Push, kube: Kube
) -> None:
    model = deployment("nap")
    model.apply({"model": {"uri": push("nap", model__onnx=GOOD)}, "scaling": ZERO})
    model.wait_ready()
    eventually(lambda: asleep(model, kube), "the model goes to zero", 90)
    obj = model.read()
    assert obj["status"]["phase"] == "Idle"
    assert model.condition("Ready")["status"] == "True"
    assert "-> 0" in model.condition("Scaled")["message"]
    url = f"{model.address()}/v2/models/{model.name}/infer"
    assert asyncio.run(burst(url, 100)) == {"200": 100}
    eventually(lambda: model.read()["status"]["phase"] == "Ready", "the model is up again", 30)
    eventually(
        lambda: kube.get("endpointslice", "nap-activator", model.namespace) is None,
        "the activators leave once pods answer",
        30,
    )


def test_an_hpa_is_rendered_and_its_number_is_followed(deployment: New, push: Push, kube: Kube) -> None:
    model = deployment("hpa")
    spec = {"model": {"uri": push("hpa", model__onnx=GOOD)}, "scaling": {"engine": "HPA", "min": 1, "max": 3}}
    model.apply(spec)
    model.wait_ready()
    found = kube.get("horizontalpodautoscaler", "hpa", model.namespace)
    assert found is not None
    assert found["spec"]["scaleTargetRef"]["kind"] == "ModelDeployment"
    kube("scale", "modeldeployment/hpa", "-n", model.namespace, "--replicas=2")
    eventually(lambda: model.read()["status"]["stable"]["readyReplicas"] == 2, "two pods answer", 60)
    model.apply(spec | {"scaling": {"min": 1, "max": 3}})
    eventually(
        lambda: kube.get("horizontalpodautoscaler", "hpa", model.namespace) is None, "the HPA is removed", 30
    )
