"""One image of server and model: made by a Job, run without a volume, asleep and awake like any other."""

from collections.abc import Callable

import numpy as np
import pytest

from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import classifier
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]

ROWS = np.eye(4, dtype=np.float32)
PACKAGED = {"runtime": "OnnxRuntime", "packaging": "Image"}
ZERO = {"min": 0, "max": 1, "idleAfter": "5s", "stableWindow": "10s"}


def model_of(order: list[int]) -> bytes:
    """A model that answers row `i` of the unit matrix with `order[i]`."""
    return classifier(ROWS[:, order], np.zeros(4, np.float32))


def answers(model: ModelDeployment) -> list[int]:
    """Ask for all rows of the unit matrix; gives the likeliest class of each."""
    (found,) = model.infer({"x": ROWS}).values()
    return [int(i) for i in found.argmax(1)]


def test_a_model_in_one_image_with_its_server_mounts_nothing_and_wakes_from_zero(
    deployment: New, push: Push, kube: Kube
) -> None:
    model = deployment("packaged")
    first = push("packaged", "1", model__onnx=model_of([0, 1, 2, 3]))
    model.apply({"model": {"uri": first}, "serving": PACKAGED, "scaling": ZERO})
    ready = model.wait_ready(180, fail_on_stalled=True)
    (pod,) = kube.list("pods", model.namespace, "app.kubernetes.io/component=server")
    assert "volumes" not in pod["spec"]
    assert "@sha256:" in pod["spec"]["containers"][0]["image"]
    before = answers(model)

    def asleep() -> bool:
        assert model.read()["status"]["stable"]["replicas"] == 0
        return not kube.list("pods", model.namespace, "app.kubernetes.io/component=server")

    eventually(asleep, "the model goes to zero", 120)
    assert answers(model) == before

    # Another model is another image, tried beside the first.
    stable = ready["status"]["stable"]["revision"]
    second = push("packaged", "2", model__onnx=model_of([1, 0, 3, 2]))
    model.apply({"model": {"uri": second}, "serving": PACKAGED})
    eventually(lambda: model.read()["status"]["stable"]["revision"] != stable, "the second takes over", 120)
    eventually(lambda: answers(model) != before, "the second answers", 30)
