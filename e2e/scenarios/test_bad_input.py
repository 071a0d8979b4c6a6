"""Bad data, Jobs that fail, what cannot be meant: a clear reason with cause and next step."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from e2e.kit.https import FileServer
from e2e.kit.kube import Kube, KubectlError
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import classifier, digits, npz
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]
CREDENTIALS = {"secretName": "files"}
GOOD = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))


def not_a_number() -> bytes:
    """A model that answers NaN."""
    return classifier(np.full((4, 4), np.nan, dtype=np.float32), np.zeros(4, np.float32))


DATA_CASES: list[Any] = [
    pytest.param(
        {"calibration": npz(x=np.zeros((8, 3), np.float32))}, "shape", id="calibration of a wrong shape"
    ),
    pytest.param(
        {"calibration": npz(x=np.zeros((8, 64), np.complex64))}, "dtype", id="calibration of a wrong dtype"
    ),
    pytest.param(
        {"evaluation": npz(x=np.zeros((0, 64), np.float32), labels=np.zeros(0, np.int64))},
        "empty",
        id="an empty evaluation set",
    ),
]


@pytest.mark.parametrize(("bad", "said"), DATA_CASES)
def test_bad_data_is_named(deployment: New, files: FileServer, bad: Mapping[str, bytes], said: str) -> None:
    data = digits()
    content = {"calibration": data.calibration, "evaluation": data.evaluation, **bad}
    model = deployment("data")
    optimize = {k: {"uri": files.put(f"{k}-{abs(hash(v))}.npz", v)} for k, v in content.items()}
    model.apply(
        {
            "model": {"uri": files.put("digits.onnx", data.model), "credentials": CREDENTIALS},
            "optimize": optimize,
        }
    )
    stalled = model.wait_for("Stalled", "True")
    assert said in stalled["message"].lower(), stalled


def test_a_model_that_answers_nan_is_refused_by_the_job(deployment: New, files: FileServer) -> None:
    model = deployment("nan")
    evaluation = npz(x=np.eye(4, dtype=np.float32), labels=np.arange(4))
    model.apply(
        {
            "model": {"uri": files.put("nan.onnx", not_a_number()), "credentials": CREDENTIALS},
            "optimize": {"evaluation": {"uri": files.put("nan.npz", evaluation)}},
        }
    )
    assert "nan" in model.wait_for("Stalled", "True")["message"].lower()


def test_nothing_within_max_drop_fails_where_that_is_asked(deployment: New, files: FileServer) -> None:
    data = digits()
    model = deployment("strict")
    model.apply(
        {
            "model": {"uri": files.put("digits.onnx", data.model), "credentials": CREDENTIALS},
            "optimize": {
                "calibration": {"uri": files.put("calibration.npz", data.calibration)},
                "evaluation": {"uri": files.put("evaluation.npz", data.evaluation), "maxDrop": 0},
                "onMiss": "Fail",
            },
        }
    )
    stalled = model.wait_for("Stalled", "True", seconds=240)
    assert stalled["reason"] == "NoCandidate"
    assert "maxDrop" in stalled["message"], stalled


def test_a_missing_secret_is_named_and_found_once_it_is_there(
    deployment: New, files: FileServer, kube: Kube
) -> None:
    model = deployment("secretive")
    uri = files.put("good.onnx", GOOD)
    model.apply({"model": {"uri": uri, "credentials": {"secretName": "later"}}, "optimize": {}})
    stalled = model.wait_for("Stalled", "True")
    assert "later" in stalled["message"]
    certificate = files.certificate.decode()
    kube(
        "create", "secret", "generic", "later", "-n", model.namespace, f"--from-literal=ca.crt={certificate}"
    )
    model.wait_ready(180)


def test_a_job_that_needs_more_memory_than_it_may_use(deployment: New, files: FileServer) -> None:
    model = deployment("large")
    model.apply(
        {
            "model": {"uri": files.put("good.onnx", GOOD), "credentials": CREDENTIALS},
            "optimize": {"resources": {"limits": {"memory": "24Mi", "cpu": "1"}}},
        }
    )
    stalled = model.wait_for("Stalled", "True")
    assert stalled["reason"] == "OutOfMemory", stalled
    assert "optimize.resources.limits.memory" in stalled["message"]


def test_a_pod_that_no_node_can_take_is_told_in_the_schedulers_words(deployment: New, push: Push) -> None:
    model = deployment("huge")
    uri = push("huge", model__onnx=GOOD)
    model.apply(
        {
            "model": {"uri": uri},
            "serving": {"resources": {"requests": {"cpu": "900"}, "limits": {"cpu": "900"}}},
        }
    )
    stalled = model.wait_for("Stalled", "True", "Unschedulable", 30)
    assert "Insufficient cpu" in stalled["message"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": {"uri": "oci://r/m:1"}, "sclaing": {}}, "sclaing"),
        ({"model": {"uri": "ftp://r/m"}}, "spec.model.uri"),
        ({"model": {"uri": "oci://r/m:1"}, "scaling": {"min": 3, "max": 2}}, "raise max or lower min"),
        ({"model": {"uri": "oci://r/m:1"}, "scaling": {"min": -1}}, "spec.scaling.min"),
        ({"model": {"uri": "oci://r/m.pkl", "allowPickle": True}}, "pin the file"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_api_server(
    deployment: New, spec: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(KubectlError, match=said):
        deployment("refused").apply(spec)


def test_deletion_while_a_job_runs_leaves_nothing(deployment: New, files: FileServer, kube: Kube) -> None:
    data = digits()
    model = deployment("brief")
    model.apply(
        {
            "model": {"uri": files.put("digits.onnx", data.model), "credentials": CREDENTIALS},
            "optimize": {"evaluation": {"uri": files.put("evaluation.npz", data.evaluation)}},
        }
    )
    eventually(lambda: kube.list("jobs", model.namespace), "a Job was made", 30)
    kube("delete", "modeldeployment", "brief", "-n", model.namespace, "--timeout=60s")
