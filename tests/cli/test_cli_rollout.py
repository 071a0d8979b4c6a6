"""The commands that a person gives a rollout, against a real API server."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.cluster.apiserver import ApiServer
from e2e.cluster.kubectl import await_established

pytestmark = pytest.mark.apiserver
ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
NAMESPACE = "cli-rollout"


@pytest.fixture(scope="module")
def server(apiserver: ApiServer) -> ApiServer:
    """An API server with the kind and one ModelDeployment; no operator runs."""
    crd = ROOT / "crds" / "longshore.dev_modeldeployments.yaml"
    apiserver.kubectl("apply", "--server-side", "-f", str(crd))
    await_established(apiserver.binaries, apiserver.kubeconfig, "crd/modeldeployments.longshore.dev")
    apiserver.kubectl("create", "namespace", NAMESPACE)
    obj = {
        "apiVersion": "longshore.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": NAMESPACE},
        "spec": {"model": {"uri": "oci://registry.example/digits:1"}},
    }
    apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(obj))
    return apiserver


def run(server: ApiServer, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPTS / "kubectl-longshore", *words],
        env={**os.environ, "KUBECONFIG": str(server.kubeconfig), "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def annotations(server: ApiServer) -> dict[str, str]:
    text = server.kubectl("get", "modeldeployment", "digits", "-n", NAMESPACE, "-o", "json")
    return dict(json.loads(text)["metadata"].get("annotations", {}))


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
    server: ApiServer, words: list[str], annotation: str, value: str | None
) -> None:
    process = run(server, *words, "-n", NAMESPACE)
    deadline = time.monotonic() + 30
    while annotation not in annotations(server):
        assert time.monotonic() < deadline, "the order is not written"
        assert process.poll() is None, process.communicate()
    assert value in (None, annotations(server)[annotation])
    answered = {"status": {"rollout": {"state": {"answer": f"{words[0]}: understood"}}}}
    patch = ["patch", "modeldeployment", "digits", "-n", NAMESPACE, "--type=merge"]
    server.kubectl(*patch, "--subresource=status", "-p", json.dumps(answered))
    server.kubectl("annotate", "modeldeployment", "digits", "-n", NAMESPACE, f"{annotation}-")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert f"{words[0]}: understood" in out


def test_watch_shows_who_gets_how_much_and_why(server: ApiServer) -> None:
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
    patch = ["patch", "modeldeployment", "digits", "-n", NAMESPACE, "--type=merge"]
    server.kubectl(*patch, "--subresource=status", "-p", json.dumps(status))
    process = run(server, "watch", "digits", "-n", NAMESPACE, "--once")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    for text in ("holding 10 % for 20 s more", "aaa", "90 %", "bbb", "1/3", "canary 14 errors of 812"):
        assert text in out


def test_what_is_not_there_is_named(server: ApiServer) -> None:
    process = run(server, "watch", "nothing", "-n", NAMESPACE, "--once")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "there is no ModelDeployment nothing" in err
