"""Routes on a real API server with the real kinds of the Gateway API; the test plays the gateway."""

from typing import Any

import pytest

from e2e.cluster import addons
from e2e.cluster.apiserver import ApiServer
from tests.kube import Kube, Object, model, models_path
from tests.operator.driver import Driver

pytestmark = pytest.mark.apiserver

GATEWAY_API = "gateway.networking.k8s.io/v1"
ROUTES = {"HTTPRoute": "httproutes", "GRPCRoute": "grpcroutes"}
SPEC: dict[str, Any] = {
    "model": {"uri": "https://models.example/digits.onnx"},
    "route": {
        "parentRefs": [{"name": "gateway", "sectionName": "http"}],
        "grpcParentRefs": [{"name": "gateway", "sectionName": "grpc"}],
        "pathPrefix": "/digits",
    },
    "rollout": {"steps": [{"weight": 20, "pause": {}}], "preflight": {"samples": 0}},
}


@pytest.fixture(scope="module", autouse=True)
def gateway_api(apiserver: ApiServer, kube: Kube) -> None:
    """Install the kinds of the Gateway API; one that was just installed is answered with 429 for a moment."""
    addons.install_gateway_api(apiserver.kubeconfig, lambda line: None)
    for plural in ROUTES.values():
        kube.items(f"/apis/{GATEWAY_API}/{plural}")


def path(driver: Driver, kind: str) -> str:
    return f"/apis/{GATEWAY_API}/namespaces/{driver.namespace}/{ROUTES[kind]}/digits"


def route(driver: Driver, kind: str) -> Object:
    found = driver.kube.get(path(driver, kind))
    assert found is not None, f"no {kind}"
    return found


def accept(driver: Driver) -> None:
    """Say of every route that stands what a gateway would."""
    for kind in ROUTES:
        found = driver.kube.get(path(driver, kind))
        if found is None:
            continue
        condition = {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": found["metadata"]["generation"],
        }
        parents = [
            {"parentRef": parent, "controllerName": "tests.example/gateway", "conditions": [condition]}
            for parent in found["spec"]["parentRefs"]
        ]
        driver.kube.merge(f"{path(driver, kind)}/status", {"status": {"parents": parents}})


async def go(driver: Driver, ticks: int = 12) -> None:
    """Let a rollout go on that waits for a person."""
    for _ in range(ticks):
        again = await driver.reconcile()
        driver.work()
        accept(driver)
        driver.ahead += min(again, 2.0) if again is not None else 1.0


def weights(obj: Object) -> dict[str, int]:
    mine = next(rule for rule in obj["spec"]["rules"] if rule["name"] == "longshore")
    return {backend["name"]: backend["weight"] for backend in mine["backendRefs"]}


async def test_both_kinds_of_route_stand_and_rest(kube: Kube) -> None:
    async with Driver(kube, "routes-rest") as driver:
        kube.apply(models_path(driver.namespace, "digits"), model("digits", SPEC, driver.namespace), "git")
        await go(driver)
        assert driver.condition("Routed")["status"] == "True"
        assert route(driver, "GRPCRoute")["spec"]["rules"][0]["backendRefs"][0]["port"] == 8081
        assert await driver.settle() == []
        driver.ahead += 600
        await driver.restart()
        assert await driver.settle() == []


async def test_weights_of_both_move_together_and_foreign_rules_stay(kube: Kube) -> None:
    async with Driver(kube, "routes-weights") as driver:
        place = models_path(driver.namespace, "digits")
        kube.apply(place, model("digits", SPEC, driver.namespace), "git")
        await go(driver)
        foreign = {"name": "theirs", "backendRefs": [{"name": "other", "port": 1, "weight": 1}]}
        for kind in ROUTES:
            rules = route(driver, kind)["spec"]["rules"]
            patch = {"metadata": {"annotations": {"team.example/note": "ours"}}}
            kube.merge(path(driver, kind), {**patch, "spec": {"rules": [foreign, *rules]}})
        kube.merge(place, {"spec": {"model": {"uri": "https://models.example/other.onnx"}}})
        await go(driver, 20)
        for kind in ROUTES:
            assert weights(route(driver, kind)) == {"digits-stable": 80, "digits-canary": 20}, kind
        kube.merge(place, {"metadata": {"annotations": {"longshore.dev/abort": "now"}}})
        await go(driver)
        for kind in ROUTES:
            found = route(driver, kind)
            assert weights(found) == {"digits-stable": 100, "digits-canary": 0}, kind
            assert [rule["name"] for rule in found["spec"]["rules"]] == ["theirs", "longshore"]
            assert found["metadata"]["annotations"]["team.example/note"] == "ours"
        assert driver.condition("Ready")["status"] == "True"
        assert driver.condition("Stalled")["reason"] == "RolloutAborted"


async def test_affinity_by_a_cookie_is_taken_and_rests(kube: Kube) -> None:
    async with Driver(kube, "routes-affinity") as driver:
        place = models_path(driver.namespace, "digits")
        rollout = {**SPEC["rollout"], "affinity": {"cookie": "session"}}
        kube.apply(place, model("digits", {**SPEC, "rollout": rollout}, driver.namespace), "git")
        await go(driver)
        kube.merge(place, {"spec": {"model": {"uri": "https://models.example/other.onnx"}}})
        await go(driver, 20)
        for kind in ROUTES:
            rules = route(driver, kind)["spec"]["rules"]
            assert [rule["name"] for rule in rules] == ["longshore", "longshore-canary", "longshore-stable"]
            assert rules[1]["matches"][0]["headers"][0]["name"] == "Cookie"
        versions = [route(driver, kind)["metadata"]["generation"] for kind in ROUTES]
        await go(driver, 6)
        assert [route(driver, kind)["metadata"]["generation"] for kind in ROUTES] == versions
        kube.merge(place, {"metadata": {"annotations": {"longshore.dev/abort": "now"}}})
        await go(driver)
        assert [len(route(driver, kind)["spec"]["rules"]) for kind in ROUTES] == [1, 1]


async def test_a_preview_stands_in_both_routes_until_it_is_promoted(kube: Kube) -> None:
    async with Driver(kube, "routes-preview") as driver:
        place = models_path(driver.namespace, "digits")
        rollout = {
            "strategy": "BlueGreen",
            "steps": [{"weight": 0, "pause": {}}],
            "preflight": {"samples": 0},
        }
        kube.apply(place, model("digits", {**SPEC, "rollout": rollout}, driver.namespace), "git")
        await go(driver)
        kube.merge(place, {"spec": {"model": {"uri": "https://models.example/other.onnx"}}})
        await go(driver, 20)
        for kind in ROUTES:
            names = [rule["name"] for rule in route(driver, kind)["spec"]["rules"]]
            assert names == ["longshore", "longshore-preview"], kind
        assert driver.condition("Stalled")["reason"] == "WaitingForPromotion"
        kube.merge(place, {"metadata": {"annotations": {"longshore.dev/promote": "now"}}})
        await go(driver, 20)
        for kind in ROUTES:
            assert [rule["name"] for rule in route(driver, kind)["spec"]["rules"]] == ["longshore"], kind
        assert driver.condition("Ready")["status"] == "True"
        assert driver.condition("Stalled")["status"] == "False"


async def test_a_route_for_one_kind_goes_when_it_is_no_longer_asked_for(kube: Kube) -> None:
    async with Driver(kube, "routes-gone") as driver:
        place = models_path(driver.namespace, "digits")
        kube.apply(place, model("digits", SPEC, driver.namespace), "git")
        await go(driver, 6)
        kube.merge(place, {"spec": {"route": {"grpcParentRefs": None}}})
        await go(driver, 6)
        assert kube.get(path(driver, "GRPCRoute")) is None
        assert kube.get(path(driver, "HTTPRoute")) is not None
