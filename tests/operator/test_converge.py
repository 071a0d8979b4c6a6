"""On a real API server: it converges, rests, and ends in the same place wherever it was killed."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from longshore.api.serving import RuntimeName
from longshore.cluster import ClusterError
from longshore.plan.choice import Measured, Speed

from tests.api.cases import TAKEN
from tests.kube import Kube, model, models_path
from tests.operator.driver import Driver, Faults, KilledError

pytestmark = pytest.mark.apiserver

ONNX, TRITON = RuntimeName.ONNX_RUNTIME, RuntimeName.TRITON
SPEC: dict[str, Any] = {"model": {"uri": "https://models.example/digits.onnx"}, "serving": {"replicas": 2}}
GOOD: dict[str, Any] = {
    "outcome": "Succeeded",
    "artifact": f"oci://localhost:5000/longshore@sha256:{'b' * 64}",
    "artifactSha256": "b" * 64,
    "chosen": "dynamic-int8",
}
LATER: dict[str, Any] = {"batching": {"maxSize": 4}}
ODD: dict[str, Any] = {
    "resources": {
        "requests": {"cpu": "0.5", "memory": "512.5Mi"},
        "limits": {"cpu": "2000m", "memory": "2048Mi"},
    },
    "podTemplate": {
        "labels": {"team": "vision", "empty": ""},
        "annotations": {"note": "ü\n"},
        "nodeSelector": {"disk": ""},
        "tolerations": [
            {"operator": "Exists"},
            {"key": "a", "value": "", "tolerationSeconds": 0, "effect": "NoExecute"},
        ],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "preference": {
                            "matchExpressions": [{"key": "a", "operator": "Exists", "values": []}]
                        },
                    }
                ]
            },
            "podAffinity": {},
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": None}
        ],
        "env": [{"name": "EMPTY", "value": ""}, {"name": "ONE", "value": "1"}],
        "imagePullSecrets": [{"secretName": "pull"}],
        "priorityClassName": "system-cluster-critical",
    },
}


async def test_it_converges_and_three_resyncs_and_a_restart_write_nothing(kube: Kube) -> None:
    async with Driver(kube, "converge-rest") as driver:
        applied = kube.apply(
            models_path(driver.namespace, "digits"), model("digits", SPEC, driver.namespace), "git"
        )
        await driver.settle()
        assert driver.condition("Ready")["status"] == "True"
        for _ in range(3):
            driver.ahead += 600
            assert await driver.settle() == []
        await driver.restart()
        assert await driver.settle() == []
        root = driver.root()
        assert root["spec"] == applied["spec"] == SPEC
        assert root["metadata"]["generation"] == 1
        writers = {
            entry["manager"] for entry in root["metadata"]["managedFields"] if "f:spec" in entry["fieldsV1"]
        }
        assert writers == {"git"}


@pytest.mark.parametrize("name", ["everything", "odd", "free", "triton"])
async def test_a_spec_with_every_field_rests_too(kube: Kube, name: str) -> None:
    spec = {
        "everything": {k: v for k, v in TAKEN["everything"].items() if k not in ("optimize", "route")},
        "odd": {**SPEC, "serving": ODD},
        "free": {**SPEC, "serving": {"podTemplate": {"labels": {"app.kubernetes.io/name": "mine"}}}},
        # Its shared memory is 1024Mi, which the API server writes otherwise.
        "triton": {**SPEC, "serving": {"runtime": "Triton", "resources": {"limits": {"cpu": "900"}}}},
    }[name]
    async with Driver(kube, f"converge-{name}") as driver:
        kube.create(models_path(driver.namespace), model("digits", spec, driver.namespace))
        await driver.settle()
        measured = spec["serving"].get("runtime") == "Auto"
        assert len(driver.items("apps/v1", "deployments")) == 1 + measured, driver.condition("Stalled")
        assert driver.condition("Stalled")["status"] == "False", driver.condition("Stalled")
        assert await driver.settle() == []
        await driver.restart()
        assert await driver.settle() == []


@pytest.mark.parametrize("name", ["everything", "canary"])
async def test_after_hours_of_life_the_spec_is_as_git_wrote_it(kube: Kube, name: str) -> None:
    everything = {k: v for k, v in TAKEN["everything"].items() if k != "route"}
    steps = {"steps": [{"weight": 20, "hold": "1m"}], "analysis": {"warmup": "0s"}}
    first = {"everything": everything, "canary": {**SPEC, "optimize": {}, "rollout": steps}}[name]
    async with Driver(kube, f"converge-hours-{name}") as driver:
        path, second = models_path(driver.namespace, "digits"), {**first, "serving": LATER}
        for generation, spec in ((1, first), (2, second)):
            applied = kube.apply(path, model("digits", spec, driver.namespace), "git")
            for _ in range(8):
                await driver.settle(patience=1.0)
                if any(not j.get("status") for j in driver.items("batch/v1", "jobs")):
                    driver.end_job(GOOD)
                driver.ahead += 1800
            root = driver.root()
            assert root["spec"] == applied["spec"] == spec
            assert root["metadata"]["generation"] == root["status"]["observedGeneration"] == generation
            fields = root["metadata"]["managedFields"]
            assert {f["manager"] for f in fields if "f:spec" in f["fieldsV1"]} == {"git"}
        assert len(root["status"]["revisions"]) == 2


async def test_runtime_auto_measures_beside_what_serves_and_keeps_the_better(kube: Kube) -> None:
    async with Driver(kube, "converge-auto") as driver:
        spec = {**SPEC, "serving": {"runtime": "Auto"}}
        kube.create(models_path(driver.namespace), model("digits", spec, driver.namespace))
        await driver.settle(patience=1.0)
        assert len(driver.items("apps/v1", "deployments")) == 2
        assert driver.root()["status"]["phase"] == "Measuring"
        revision = driver.root()["status"]["revisions"][0]["name"]
        driver.senses.measured[driver.namespace, "digits"] = Measured(
            revision, {ONNX: Speed(0.004, 0.01, 300.0), TRITON: Speed(0.002, 0.003, 900.0)}
        )
        await driver.settle()
        (serving,) = driver.items("apps/v1", "deployments")
        assert serving["metadata"]["annotations"]["longshore.dev/runtime"] == "Triton"
        table = driver.root()["status"]["runtimes"]
        assert (table["chosen"], [row["p95Ms"] for row in table["candidates"]]) == ("Triton", [10.0, 3.0])
        assert driver.condition("Ready")["status"] == "True"
        await driver.restart()
        assert await driver.settle() == []


async def whole_life(driver: Driver, name: str) -> None:
    """Optimize, serve, change the revision."""
    await driver.settle(name)
    if not driver.items("apps/v1", "deployments") and not _ended(driver):
        driver.end_job(GOOD)
    await driver.settle(name)
    path = models_path(driver.namespace, name)
    if driver.root(name)["spec"]["serving"].get("batching") is None:
        driver.kube.merge(path, {"spec": {"serving": {"batching": {"maxSize": 4}}}})
    await driver.settle(name)


def _ended(driver: Driver) -> bool:
    return any(j.get("status", {}).get("conditions") for j in driver.items("batch/v1", "jobs"))


async def lives(
    driver: Driver, spec: dict[str, Any], live: Callable[[], Awaitable[object]]
) -> AsyncIterator[int]:
    """Live once undisturbed, then once for every write of that life, killed at it; each life ends alike."""
    path = models_path(driver.namespace)
    manifest = model("digits", spec, driver.namespace)
    driver.kube.create(path, manifest)
    await live()
    total, wanted = driver.faults.attempts, driver.end_state()
    for kill_at in range(total):
        driver.clear()
        await driver.restart(Faults(kill_at))
        driver.kube.create(path, manifest)
        assert await _dies(live()), f"the operator was to end at write {kill_at}"
        await driver.restart()
        await live()
        assert driver.end_state() == wanted, f"killed before write {kill_at}"
        yield kill_at


async def test_killed_between_any_two_writes_it_ends_in_the_same_place(kube: Kube) -> None:
    async with Driver(kube, "converge-kill") as driver:
        killed = 0
        async for _ in lives(driver, SPEC, driver.settle):
            killed += 1
            assert driver.condition("Ready")["status"] == "True"
            assert await driver.settle() == []
        assert killed >= 8


async def test_killed_at_any_write_of_a_whole_life_it_ends_in_the_same_place(kube: Kube) -> None:
    """A Job that optimizes, the first revision, and the next one."""
    async with Driver(kube, "converge-kill-life") as driver:
        life = lives(driver, {**SPEC, "optimize": {}}, lambda: whole_life(driver, "digits"))
        assert len([kill_at async for kill_at in life]) >= 20


async def _dies(work: Awaitable[object]) -> bool:
    try:
        await work
    except KilledError:
        return True
    return False


async def test_failing_requests_of_every_kind_are_overcome(kube: Kube) -> None:
    faults = [
        ClusterError(409, "Conflict", "the object has been modified"),
        ClusterError(500, "InternalError", "etcdserver: leader changed"),
        ClusterError(503, "ServiceUnavailable", "shutting down"),
        ClusterError(429, "TooManyRequests", "slow down"),
        ClusterError(0, "Unreachable", "timed out before it was sent"),
        ClusterError(0, "AnswerLost", "timed out after it was done"),
    ]
    source = random.Random(5)
    async with Driver(kube, "converge-faults") as driver:
        path = models_path(driver.namespace)
        manifest = model("digits", {**SPEC, "optimize": {}}, driver.namespace)
        kube.create(path, manifest)
        await whole_life(driver, "digits")
        wanted = driver.end_state()
        for _ in range(2):
            driver.clear()
            answers = {n: source.choice(faults) for n in range(60) if source.random() < 0.4}
            await driver.restart(Faults(answers=answers))
            kube.create(path, manifest)
            await whole_life(driver, "digits")
            assert driver.end_state() == wanted
            assert driver.condition("Ready")["status"] == "True"


async def test_drift_is_repaired_and_what_others_wrote_is_kept(kube: Kube) -> None:
    async with Driver(kube, "converge-drift") as driver:
        kube.create(models_path(driver.namespace), model("digits", SPEC, driver.namespace))
        await driver.settle()
        wanted = driver.end_state()
        services = f"/api/v1/namespaces/{driver.namespace}/services/digits"
        kube.merge(services, {"spec": {"selector": {"longshore.dev/revision": "elsewhere"}}})
        (deployment,) = driver.items("apps/v1", "deployments")
        place = f"/apis/apps/v1/namespaces/{driver.namespace}/deployments/{deployment['metadata']['name']}"
        container = {"name": "server", "image": "elsewhere.example/evil:1"}
        kube.call(
            "PATCH",
            f"{place}?fieldManager=tests",
            {"spec": {"template": {"spec": {"containers": [container]}}}},
            "application/strategic-merge-patch+json",
        )
        kube.merge(
            services, {"metadata": {"annotations": {"example.com/owner": "me"}, "labels": {"mine": "1"}}}
        )
        await driver.settle()
        service = kube.get(services)
        assert service is not None
        assert service["metadata"]["annotations"]["example.com/owner"] == "me"
        assert service["metadata"]["labels"]["mine"] == "1"
        found = driver.end_state()
        del (
            found["services/digits"]["annotations"]["example.com/owner"],
            found["services/digits"]["labels"]["mine"],
        )
        assert found == wanted
        assert await driver.settle() == []


async def test_a_deletion_that_no_watch_told_is_found_by_the_full_list(kube: Kube) -> None:
    async with Driver(kube, "converge-missed") as driver:
        kube.create(models_path(driver.namespace), model("digits", SPEC, driver.namespace))
        await driver.settle()
        wanted = driver.end_state()
        for path in (
            "/api/v1/namespaces/{}/services/digits",
            "/apis/policy/v1/namespaces/{}/poddisruptionbudgets/digits",
        ):
            kube.delete(path.format(driver.namespace))
        await driver.settle()
        assert driver.end_state() == wanted


@pytest.mark.parametrize("kind", ["service", "serviceaccount"])
async def test_somebody_elses_object_of_the_same_name_is_left_alone(kube: Kube, kind: str) -> None:
    async with Driver(kube, f"converge-taken-{kind}") as driver:
        obj: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "digits"}}
        if kind == "service":
            obj["spec"] = {"selector": {"app": "mine"}, "ports": [{"port": 80}]}
        else:
            obj |= {"kind": "ServiceAccount", "automountServiceAccountToken": True}
        before = kube.create(f"/api/v1/namespaces/{driver.namespace}/{kind}s", obj)
        kube.create(models_path(driver.namespace), model("digits", SPEC, driver.namespace))
        await driver.settle()
        stalled = driver.condition("Stalled")
        assert stalled["reason"] == "NameTaken"
        assert "rename the ModelDeployment, or delete that object" in stalled["message"]
        after = kube.get(f"/api/v1/namespaces/{driver.namespace}/{kind}s/digits")
        assert after is not None
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        kube.delete(f"/api/v1/namespaces/{driver.namespace}/{kind}s/digits")
        driver.ahead += 60
        await driver.settle()
        assert driver.condition("Ready")["status"] == "True"


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"affinity": {"nodeAffinity": {"surprise": 1}}}, "surprise"),
        ({"labels": {"team": "two words"}}, "two words"),
        ({"topologySpreadConstraints": [{"topologyKey": "zone"}]}, "maxSkew"),
        ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "A"),
    ],
)
async def test_what_the_api_server_refuses_is_told_and_mended(
    kube: Kube, overlay: dict[str, Any], words: str
) -> None:
    async with Driver(kube, f"converge-refused-{words.replace(' ', '-').lower()}") as driver:
        spec = {**SPEC, "serving": {"podTemplate": overlay}}
        kube.create(models_path(driver.namespace), model("digits", spec, driver.namespace))
        await driver.settle()
        stalled = driver.condition("Stalled")
        assert stalled["reason"] == "ObjectRefused", stalled
        assert words in stalled["message"]
        assert driver.condition("Ready")["status"] == "False"
        kube.merge(models_path(driver.namespace, "digits"), {"spec": {"serving": {"podTemplate": None}}})
        await driver.settle()
        assert driver.condition("Ready")["status"] == "True"
        assert driver.condition("Stalled")["status"] == "False"


async def test_refusal_of_a_new_revision_keeps_what_serves(kube: Kube) -> None:
    async with Driver(kube, "converge-refused-later") as driver:
        kube.create(models_path(driver.namespace), model("digits", SPEC, driver.namespace))
        await driver.settle()
        before = driver.root()["status"]["stable"]["revision"]
        bad = {"podTemplate": {"labels": {"team": "two words"}}}
        kube.merge(models_path(driver.namespace, "digits"), {"spec": {"serving": bad}})
        await driver.reconcile()
        assert driver.condition("Stalled")["reason"] == "ObjectRefused"
        assert driver.condition("Ready")["status"] == "True"
        assert driver.root()["status"]["stable"]["revision"] == before
