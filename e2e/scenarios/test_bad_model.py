"""A bad model: a clear reason with cause and next step, what serves goes on, a fixed spec recovers."""

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from e2e.kit.https import FileServer
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import classifier, unknown_operator

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]
CREDENTIALS = {"secretName": "files"}
GOOD = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))


def escaping_data() -> bytes:
    """A model whose external data lies outside of its directory."""
    model = onnx.load_from_string(GOOD)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
    return bytes(model.SerializeToString())


AWAY = {"uri": "https://127.0.0.1:9/model.onnx"}
PICKLE = {"content": pickle.dumps([1]), "name": "bad.pkl"}
CASES: list[Any] = [
    pytest.param(
        {"content": b"this is a text file\n"},
        ("UnknownFormat", "text file", "check that the uri"),
        id="a text file called model.onnx",
    ),
    pytest.param(
        {"content": GOOD[: len(GOOD) // 2]}, ("Truncated", "truncated", "upload"), id="a truncated file"
    ),
    pytest.param(
        {"content": unknown_operator(), "served": "ServerFailed"},
        ("UnsupportedOperator", "Imaginary", "export"),
        id="an operator that the runtime lacks",
    ),
    pytest.param(
        {"content": escaping_data()},
        ("ExternalDataEscapes", "outside", "save the model"),
        id="external data outside of the directory",
    ),
    pytest.param(
        {"content": GOOD, "sha256": "0" * 64},
        ("DigestMismatch", "sha256", "correct the sha256"),
        id="a wrong sha256",
    ),
    pytest.param({}, ("NotFound", "404", "correct the uri"), id="a uri that is not there"),
    pytest.param(AWAY, ("FetchFailed", "127.0.0.1", "check the host name"), id="a host that is away"),
    pytest.param(PICKLE, ("PickleNotAllowed", "pickle", "allowPickle"), id="a pickle without opt-in"),
]
"""What is wrong; by which reason it is told, with what cause and which next step."""


@pytest.mark.parametrize("optimized", [True, False], ids=["with a Job", "served as it is"])
@pytest.mark.parametrize(("case", "told"), CASES)
def test_a_bad_model_is_named_and_a_fixed_spec_recovers(
    deployment: New, files: FileServer, case: Mapping[str, Any], told: tuple[str, str, str], optimized: bool
) -> None:
    model = deployment("bad")
    bad: dict[str, Any] = {"uri": case.get("uri", files.url("missing.onnx")), "credentials": CREDENTIALS}
    if "content" in case:
        bad["uri"] = files.put(case.get("name", f"bad-{abs(hash(case['content']))}.onnx"), case["content"])
    if "sha256" in case:
        bad["sha256"] = case["sha256"]
    rest: dict[str, Any] = {"optimize": {}} if optimized else {}
    model.apply({"model": bad, **rest})
    stalled = model.wait_for("Stalled", "True", seconds=120)
    reason, cause, step = told
    assert stalled["reason"] == (reason if optimized else case.get("served", reason)), stalled
    assert cause in stalled["message"]
    assert step in stalled["message"].partition(cause)[2], stalled
    assert model.condition("Ready")["status"] == "False"
    model.apply({"model": {"uri": files.put("good.onnx", GOOD), "credentials": CREDENTIALS}})
    model.wait_ready()
    assert model.condition("Stalled")["status"] == "False"


def test_what_serves_goes_on_while_a_new_spec_is_bad(deployment: New, files: FileServer, push: Push) -> None:
    model = deployment("serving")
    model.apply({"model": {"uri": push("serving", model__onnx=GOOD)}})
    first = model.wait_ready()["status"]["stable"]["revision"]
    model.apply({"model": {"uri": files.url("missing.onnx"), "credentials": CREDENTIALS}, "optimize": {}})
    stalled = model.wait_for("Stalled", "True")
    assert "404" in stalled["message"]
    assert model.condition("Ready")["status"] == "True"
    assert model.read()["status"]["stable"]["revision"] == first
    assert model.infer({"x": np.eye(4, dtype=np.float32)})["probabilities"].shape == (4, 4)
