"""A Job that Kueue holds, on a real API server: the test plays Kueue, and only Kueue writes to the Job."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.kube import Kube, Object, model, models_path
from tests.operator.driver import Driver
from tests.operator.test_converge import GOOD, SPEC

pytestmark = pytest.mark.apiserver

QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
LABELS = {QUEUE: "team-a", PRIORITY: "nightly"}


def labelled(driver: Driver, **optimize: Any) -> Object:
    found = model("digits", {**SPEC, "optimize": optimize}, driver.namespace)
    return {**found, "metadata": {**found["metadata"], "labels": {**LABELS, "team": "vision"}}}


def the_job(driver: Driver) -> Object:
    (job,) = driver.items("batch/v1", "jobs")
    return job


def kueue(driver: Driver, suspended: bool, **template: Any) -> None:
    """Suspend or resume the Job as Kueue does, and as the Job controller then tells."""
    name = the_job(driver)["metadata"]["name"]
    path = f"/apis/batch/v1/namespaces/{driver.namespace}/jobs/{name}"
    driver.kube.merge(path, {"spec": {"suspend": suspended, **({"template": template} if template else {})}})
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "Suspended", "status": str(suspended), "lastTransitionTime": moment}
    driver.kube.merge(f"{path}/status", {"status": {"conditions": [condition]}})


def to_jobs(writes: list[str]) -> list[str]:
    return [write for write in writes if "/jobs/" in write]


async def test_a_job_goes_through_a_queue_twice_and_nobody_but_kueue_writes_to_it(kube: Kube) -> None:
    async with Driver(kube, "kueue-life") as driver:
        kube.create(models_path(driver.namespace), labelled(driver))
        made = to_jobs(await driver.settle())
        job = the_job(driver)
        name = job["metadata"]["name"]
        assert len(made) == 1
        assert job["metadata"]["labels"].items() >= LABELS.items()
        assert "team" not in job["metadata"]["labels"]
        assert QUEUE not in json.dumps(job["spec"])

        kueue(driver, suspended=True)
        assert to_jobs(await driver.settle()) == []
        told = f"Job {name} is suspended: it waits in the Kueue queue team-a; see `kubectl get workloads`"
        assert (driver.root()["status"]["phase"], driver.root()["status"]["message"]) == ("Queued", told)
        assert (driver.condition("Optimized")["reason"], driver.condition("Optimized")["message"]) == (
            "Queued",
            told,
        )
        assert driver.condition("Stalled")["status"] == "False"
        driver.ahead += 86_400
        assert await driver.settle() == []

        flavor = {
            "metadata": {"labels": {"kueue.x-k8s.io/podset": "main"}},
            "spec": {
                "nodeSelector": {"pool": "spot"},
                "tolerations": [{"key": "spot", "operator": "Exists"}],
            },
        }
        kueue(driver, False, **flavor)
        assert to_jobs(await driver.settle()) == []
        assert driver.root()["status"]["phase"] == "Optimizing"

        kueue(driver, suspended=True)
        await driver.restart()
        assert to_jobs(await driver.settle()) == []
        assert driver.root()["status"]["message"] == told

        kueue(driver, suspended=False)
        await driver.settle()
        driver.end_job(GOOD)
        assert to_jobs(await driver.settle()) == []
        assert driver.condition("Ready")["status"] == "True"
        assert driver.condition("Optimized")["status"] == "True"
        spec = the_job(driver)["spec"]
        assert spec["template"]["spec"]["nodeSelector"] == {"pool": "spot"}
        assert the_job(driver)["metadata"]["uid"] == job["metadata"]["uid"]
        for deployment in driver.items("apps/v1", "deployments"):
            assert QUEUE not in json.dumps(deployment)
        assert await driver.settle() == []


async def test_a_changed_label_leaves_a_running_job_alone_and_counts_for_the_next(kube: Kube) -> None:
    async with Driver(kube, "kueue-relabel") as driver:
        path = models_path(driver.namespace, "digits")
        kube.create(models_path(driver.namespace), labelled(driver))
        await driver.settle()
        kueue(driver, suspended=False)
        await driver.settle()
        before = the_job(driver)
        kube.merge(path, {"metadata": {"labels": {QUEUE: "team-b", PRIORITY: None}}})
        assert await driver.settle() == []
        await driver.restart()
        assert await driver.settle() == []
        assert the_job(driver)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        kube.merge(path, {"spec": {"optimize": {"seed": 5}}})
        await driver.settle()
        jobs = driver.items("batch/v1", "jobs")
        queues = {job["metadata"]["name"]: job["metadata"]["labels"] for job in jobs}
        queues.pop(before["metadata"]["name"], None)
        (labels,) = queues.values()
        assert (labels[QUEUE], PRIORITY in labels) == ("team-b", False)
