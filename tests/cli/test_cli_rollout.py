"""The commands that a person gives a rollout, against a real API server."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kube import Kube, model, models_path

pytestmark = pytest.mark.apiserver
SCRIPTS = Path(sys.executable).parent
NAMESPACE = "cli-rollout"
DIGITS = models_path(NAMESPACE, "digits")


@pytest.fixture(scope="module")
def digits(kube: Kube) -> Kube:
    """An API server with the kind and one ModelDeployment; no operator runs."""
    kube.namespace(NAMESPACE)
    spec = {"model": {"uri": "oci://registry.example/digits:1"}}
    kube.create(models_path(NAMESPACE), model("digits", spec, NAMESPACE))
    return kube


def run(kube: Kube, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPTS / "kubectl-longshore", *words],
        env={**os.environ, "KUBECONFIG": str(kube.server.kubeconfig), "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def annotations(kube: Kube) -> dict[str, str]:
    found = kube.get(DIGITS)
    assert found is not None
    return dict(found["metadata"].get("annotations", {}))


@pytest.mark.parametrize(
    ("words", "annotation", "value"),
    [
        (["promote", "digits"], "longshore.dev/promote", None),
        (["promote", "digits", "--full"], "longshore.dev/promote-full", None),
        (["pause", "digits"], "longshore.dev/pause", None),
        (["resume", "digits"], "longshore.dev/resume", None),
        (["abort", "digits"], "longshore.dev/abort", None),
        (["retry", "digits"], "longshore.dev/retry", None),
        (["rollback", "digits", "abc123"], "longshore.dev/rollback", "abc123"),
        (["rollback", "digits", "abc123", "--force"], "longshore.dev/rollback", "abc123,force"),
    ],
)
def test_an_order_is_an_annotation_and_ends_with_the_operators_answer(
    digits: Kube, words: list[str], annotation: str, value: str | None
) -> None:
    process = run(digits, *words, "-n", NAMESPACE)
    deadline = time.monotonic() + 30
    while annotation not in annotations(digits):
        assert time.monotonic() < deadline, "the order is not written"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    assert value in (None, annotations(digits)[annotation])
    answered = {"status": {"rollout": {"state": {"answer": f"{words[0]}: understood"}}}}
    digits.merge(f"{DIGITS}/status", answered)
    digits.merge(DIGITS, {"metadata": {"annotations": {annotation: None}}})
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert f"{words[0]}: understood" in out


def test_watch_shows_who_gets_how_much_and_why(digits: Kube) -> None:
    status = {
        "status": {
            "phase": "Holding",
            "message": "holding 10 % for 20 s more",
            "stable": {"revision": "aaa", "weight": 90, "replicas": 3, "readyReplicas": 3},
            "canary": {
                "revision": "bbb",
                "weight": 10,
                "replicas": 1,
                "readyReplicas": 1,
                "step": 1,
                "steps": 3,
                "evidence": "canary 14 errors of 812",
            },
        }
    }
    digits.merge(f"{DIGITS}/status", status)
    process = run(digits, "watch", "digits", "-n", NAMESPACE, "--once")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    for text in ("holding 10 % for 20 s more", "aaa", "90 %", "bbb", "1/3", "canary 14 errors of 812"):
        assert text in out


def test_what_is_not_there_is_named(digits: Kube) -> None:
    process = run(digits, "watch", "nothing", "-n", NAMESPACE, "--once")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "there is no ModelDeployment nothing" in err
