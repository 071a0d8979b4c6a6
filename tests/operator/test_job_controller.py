"""The optimize Job under the real Job controller; the test plays the kubelet."""

import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.cluster import apiserver as api_server_process
from tests.kube import Kube, Object
from tests.operator.test_resources_golden import OBJECTS

pytestmark = pytest.mark.apiserver

SEEN_SECONDS = 3.0
"""The Job controller looks at news of pods once a second."""


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    folder = tmp_path_factory.mktemp("job-controller")
    with (
        api_server_process.start(folder, controllers=["job-controller"]) as server,
        Kube(server) as client,
    ):
        yield client


class Running:
    """A Job, and its pods on a node without a kubelet."""

    def __init__(self, kube: Kube, namespace: str, built: str) -> None:
        self.kube, self.namespace = kube, kube.namespace(namespace)
        job = copy.deepcopy(OBJECTS[built]()[0])
        job["metadata"]["namespace"] = namespace
        self.path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{job['metadata']['name']}"
        account = {"metadata": {"name": job["spec"]["template"]["spec"]["serviceAccountName"]}}
        kube.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
        kube.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)

    def pods(self) -> list[Object]:
        return self.kube.items(f"/api/v1/namespaces/{self.namespace}/pods")

    def leader(self) -> str:
        """Wait for the pod that leads, put it on a node and start it."""
        name = str(eventually(self._pending)["metadata"]["name"])
        place = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "somewhere"}}
        self.kube.create(f"{place}/binding", binding)
        self.kube.merge(f"{place}/status", {"status": {"phase": "Running"}})
        return place

    def _pending(self) -> Object | None:
        key = "batch.kubernetes.io/job-completion-index"
        leading = (p for p in self.pods() if p["metadata"].get("annotations", {}).get(key, "0") == "0")
        return next((p for p in leading if "nodeName" not in p["spec"]), None)

    def end(self, place: str, code: int) -> None:
        """Let a pod's container end; the pod stays until its node lets it go."""
        ended = {"exitCode": code, "reason": "Error"}
        container = {
            "name": "optimizer",
            "image": "none",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": ended},
        }
        self.kube.merge(f"{place}/status", {"status": {"phase": "Failed", "containerStatuses": [container]}})

    def suspend(self, suspended: bool) -> None:
        self.kube.merge(self.path, {"spec": {"suspend": suspended}})
        eventually(lambda: self.conditions().get("Suspended") == str(suspended) or None)

    def conditions(self) -> dict[str, str]:
        job = self.kube.get(self.path)
        assert job is not None
        return {c["type"]: c["status"] for c in job["status"].get("conditions", ())}


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while (found := look()) is None:
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return found


def test_a_suspended_job_survives_the_exit_code_of_its_pod_and_starts_another(kube: Kube) -> None:
    job = Running(kube, "suspended", "optimize-job")
    place = job.leader()
    job.suspend(True)
    job.end(place, 7)
    time.sleep(SEEN_SECONDS)
    assert job.conditions() == {"Suspended": "True"}, json.dumps(job.pods())
    job.suspend(False)
    time.sleep(SEEN_SECONDS)
    assert job.conditions() == {"Suspended": "False"}
    kube.call("DELETE", f"{place}?gracePeriodSeconds=0")
    assert job.leader() != place


@pytest.mark.parametrize("code", [1, 7, 137])
@pytest.mark.parametrize("built", ["optimize-job", "optimize-job-with-gpu"])
def test_any_failure_of_a_single_pod_ends_its_job_at_once(kube: Kube, built: str, code: int) -> None:
    job = Running(kube, f"{built}-{code}", built)
    job.end(job.leader(), code)
    assert eventually(lambda: job.conditions().get("Failed")) == "True"
    assert len(job.pods()) == 1
