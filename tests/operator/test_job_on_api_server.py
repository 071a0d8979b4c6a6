"""The optimize Job as a real API server takes it: fields that it does not know or allow would be refused."""

import copy

import pytest

from tests.kube import Kube
from tests.operator.test_resources_golden import OBJECTS

pytestmark = pytest.mark.apiserver


@pytest.mark.parametrize("name", ["optimize-job", "optimize-job-of-four", "optimize-job-with-gpu"])
def test_the_job_is_taken_as_it_is_built(kube: Kube, name: str) -> None:
    namespace = kube.namespace(f"taken-{name}")
    built = copy.deepcopy(OBJECTS[name]()[0])
    built["metadata"]["namespace"] = namespace
    place = f"/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All&fieldValidation=Strict"
    answer = kube.call("POST", place, built)
    assert answer.status == 201, answer.message
    for field in ("completionMode", "completions", "parallelism", "backoffLimit"):
        if field in built["spec"]:
            assert answer.body["spec"][field] == built["spec"][field]
    assert answer.body["spec"]["podFailurePolicy"] == built["spec"]["podFailurePolicy"]
