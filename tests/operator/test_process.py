"""The operator as a process: watches, metrics, probes, logs, election, and a clean end."""

import asyncio
from pathlib import Path

import pytest

from e2e.cluster import addons
from e2e.cluster import apiserver as api_server_process
from tests.kube import Kube, model, models_path
from tests.operator.process import OperatorProcess, until
from tests.operator.tunnels import Relay, kubeconfig_of

pytestmark = pytest.mark.apiserver

DEFINITION = Path(__file__).parents[2] / "crds" / "longshore.dev_modeldeployments.yaml"


def condition(kube: Kube, namespace: str, name: str, kind: str) -> dict[str, str]:
    found = kube.get(models_path(namespace, name)) or {}
    return next((c for c in found.get("status", {}).get("conditions", ()) if c["type"] == kind), {})


def test_it_reconciles_tells_metrics_and_logs_and_ends_cleanly(kube: Kube, tmp_path: Path) -> None:
    namespace = kube.namespace("process-life")
    with OperatorProcess(kube.server, namespace, tmp_path / "log") as operator:
        assert operator.get("/healthz").status_code == 200
        kube.create(models_path(namespace), model("digits", namespace=namespace))
        service = f"/api/v1/namespaces/{namespace}/services/digits"
        until(lambda: kube.get(service))
        until(lambda: condition(kube, namespace, "digits", "Reconciling").get("status") == "True")

        kube.delete(service)
        until(lambda: kube.get(service))

        bad = {"model": {"uri": "https://m.example/m"}, "serving": {"podTemplate": {"labels": {"a": "b c"}}}}
        kube.create(models_path(namespace), model("refused", bad, namespace))
        until(lambda: condition(kube, namespace, "refused", "Stalled").get("reason") == "ObjectRefused")

        metrics = operator.metrics()
        assert metrics['longshore_reconcile_total{result="success"}'] >= 2
        assert metrics["longshore_reconcile_duration_seconds_count"] >= 2
        assert metrics["longshore_queue_depth"] == 0
        assert metrics["longshore_leader"] == 1
        assert metrics["longshore_modeldeployments"] == 2
        assert metrics['longshore_reconcile_failures_total{reason="Invalid"}'] >= 1
        assert metrics['longshore_api_requests_total{kind="services",verb="PATCH"}'] >= 2

        assert operator.stop() == 0
        keyed = [line for line in operator.lines() if line.get("key") == f"{namespace}/digits"]
        assert any("reconciled" in line["message"] for line in keyed)
        assert all({"time", "level", "logger", "message"} <= set(line) for line in operator.lines())
        lease = kube.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/longshore-operator")
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == "", "the next one need not wait"

    with OperatorProcess(kube.server, namespace, tmp_path / "again") as operator:
        until(lambda: operator.metrics()["longshore_leader"] == 1)
        until(lambda: operator.metrics().get('longshore_reconcile_total{result="success"}', 0) >= 1)
        writes = {
            name: value
            for name, value in operator.metrics().items()
            if name.startswith("longshore_api_requests_total")
            and '"GET"' not in name
            and "leases" not in name
        }
        assert {
            k: v for k, v in writes.items() if "deployments" in k and "modeldeployments" not in k
        }.keys() <= {'longshore_api_requests_total{kind="deployments",verb="PATCH"}'}, (
            "only what is refused is asked for again"
        )


async def test_it_tells_that_its_queue_stands_still(kube: Kube, tmp_path: Path) -> None:
    """It hears of a model, and no request of its own is answered."""
    namespace = kube.namespace("process-stuck")
    async with Relay(kube.server) as relay:
        credentials = kubeconfig_of(kube.server, tmp_path, server=relay.url)
        with OperatorProcess(kube.server, namespace, tmp_path / "log", kubeconfig=credentials) as operator:

            def waited() -> float:
                return operator.metrics()["longshore_queue_oldest_seconds"]

            # What it hears of, its watches stand for: it leads before they do.
            kube.create(models_path(namespace), model("first", namespace=namespace))
            service = f"/api/v1/namespaces/{namespace}/services/first"
            await asyncio.to_thread(until, lambda: kube.get(service))
            await asyncio.to_thread(until, lambda: waited() == 0)
            relay.deaf = True
            kube.create(models_path(namespace), model("digits", namespace=namespace))
            assert await asyncio.to_thread(until, lambda: waited() > 1)
            relay.cut()


def test_only_the_holder_of_the_lease_works_and_another_takes_over_when_it_is_killed(
    kube: Kube, tmp_path: Path
) -> None:
    namespace = kube.namespace("process-election")
    with (
        OperatorProcess(kube.server, namespace, tmp_path / "one") as one,
        OperatorProcess(kube.server, namespace, tmp_path / "two") as two,
    ):
        leaders = until(lambda: [p for p in (one, two) if p.metrics()["longshore_leader"] == 1])
        (leader,) = leaders
        follower = two if leader is one else one
        kube.create(models_path(namespace), model("first", namespace=namespace))
        until(lambda: kube.get(f"/api/v1/namespaces/{namespace}/services/first"))
        assert not any("longshore_reconcile_total{" in name for name in follower.metrics())
        assert follower.get("/healthz").status_code == 200

        leader.process.kill()
        leader.process.wait(10)
        lease = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/longshore-operator"
        held = kube.get(lease)
        assert held is not None
        assert held["spec"]["leaseDurationSeconds"] == 30
        kube.merge(lease, {"spec": {"leaseDurationSeconds": 2}})  # To wait less; it is not given back.
        kube.create(models_path(namespace), model("second", namespace=namespace))
        until(lambda: kube.get(f"/api/v1/namespaces/{namespace}/services/second"), seconds=60)
        assert follower.metrics()["longshore_leader"] == 1


def test_whoever_lost_the_lease_ends(kube: Kube, tmp_path: Path) -> None:
    """Somebody else writes its name into the Lease: this process must not go on, not even as a listener."""
    namespace = kube.namespace("process-lost")
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/longshore-operator"
    with OperatorProcess(kube.server, namespace, tmp_path / "log") as operator:
        until(lambda: operator.metrics()["longshore_leader"] == 1)
        for number in range(20):
            kube.create(models_path(namespace), model(f"model-{number}", namespace=namespace))
        kube.merge(lease, {"spec": {"holderIdentity": "somebody-else"}})
        assert operator.process.wait(60) != 0
        assert "the lease longshore-operator was lost: somebody-else holds it" in operator.text()
    taken = kube.get(lease)
    assert taken is not None
    assert taken["spec"]["holderIdentity"] == "somebody-else"


def test_a_route_goes_to_the_first_of_two_models_and_works_once_the_gateway_api_comes(tmp_path: Path) -> None:
    """An operator for one namespace has no right to watch definitions, and notices the new kinds still."""
    spec = {"model": {"uri": "https://m.example/m.onnx"}, "route": {"parentRefs": [{"name": "gateway"}]}}
    with api_server_process.start(tmp_path / "server") as server, Kube(server) as kube:
        kube.install(DEFINITION.read_text())
        namespace = kube.namespace("process-route")

        def told(name: str, reason: str) -> str | None:
            stalled = condition(kube, namespace, name, "Stalled")
            return stalled["message"] if stalled.get("reason") == reason else None

        with OperatorProcess(server, namespace, tmp_path / "log"):
            kube.create(models_path(namespace), model("first", spec, namespace))
            kube.create(models_path(namespace), model("second", spec, namespace))
            until(lambda: told("first", "GatewayApiMissing"))
            conflict = until(lambda: told("second", "RouteConflict"))
            assert conflict is not None
            assert f"ModelDeployment {namespace}/first has this route already" in conflict
            for name in ("first", "second"):
                assert kube.get(f"/api/v1/namespaces/{namespace}/services/{name}")

            addons.install_gateway_api(server.kubeconfig, lambda line: None)
            routes = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes"
            route = until(lambda: kube.get(f"{routes}/first"))
            assert route is not None
            accepted = {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": route["metadata"]["generation"],
            }
            parents = [
                {"parentRef": parent, "controllerName": "tests.example/gateway", "conditions": [accepted]}
                for parent in route["spec"]["parentRefs"]
            ]
            kube.merge(f"{routes}/first/status", {"status": {"parents": parents}})
            until(lambda: condition(kube, namespace, "first", "Routed").get("status") == "True")

            kube.delete(models_path(namespace, "first"))
            until(lambda: kube.get(f"{routes}/second"))


def test_without_the_kind_it_says_what_to_do(tmp_path: Path) -> None:
    with (
        api_server_process.start(tmp_path / "server") as server,
        OperatorProcess(server, "default", tmp_path / "log") as operator,
    ):
        assert operator.process.wait(60) == 1
        assert "the kind ModelDeployment is not installed: apply crds/ first" in operator.text()
        assert "Traceback" not in operator.text()


def test_without_a_cluster_it_says_what_to_do(kube: Kube, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.conf"
    with OperatorProcess(kube.server, "default", tmp_path / "log", kubeconfig=nowhere) as operator:
        assert operator.process.wait(60) == 1
        assert "set KUBECONFIG" in operator.text()
        assert "Traceback" not in operator.text()


def test_deleted_at_any_moment_nothing_is_left(tmp_path: Path) -> None:
    """With the garbage collector at work; the operator is in the middle of its writes or long done."""
    controllers = ["garbage-collector-controller", "namespace-controller"]
    with (
        api_server_process.start(
            tmp_path / "server", controllers=controllers, definitions=[DEFINITION]
        ) as server,
        Kube(server) as kube,
    ):
        namespace = kube.namespace("process-delete")
        with OperatorProcess(server, namespace, tmp_path / "log") as operator:
            until(lambda: operator.metrics()["longshore_leader"] == 1)
            for number in range(8):
                name = f"model-{number}"
                spec = {
                    "model": {"uri": "https://m.example/m.onnx"},
                    **({"optimize": {}} if number % 2 else {}),
                }
                kube.create(models_path(namespace), model(name, spec, namespace))
                if number >= 4:
                    until(lambda name=name: condition(kube, namespace, name, "Reconciling"))
                kube.delete(models_path(namespace, name))
            paths = [
                f"/apis/longshore.dev/v1alpha1/namespaces/{namespace}/modeldeployments",
                f"/api/v1/namespaces/{namespace}/services",
                f"/api/v1/namespaces/{namespace}/serviceaccounts",
                f"/apis/apps/v1/namespaces/{namespace}/deployments",
                f"/apis/batch/v1/namespaces/{namespace}/jobs",
                f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
                f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
            ]
            until(lambda: not any(kube.items(path) for path in paths), seconds=90)
