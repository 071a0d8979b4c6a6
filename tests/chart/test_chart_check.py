"""`longshore operator check`, which `helm test` runs: it believes only the right answer of a ready model."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from e2e.cluster.apiserver import ApiServer
from e2e.cluster.wait import wait_for
from tests.chart.rendered import CHART, ROOT
from tests.kube import Kube, models_path

pytestmark = pytest.mark.apiserver

NAMESPACE = "chart-check"
MODEL = "oci://registry.example/test:doubles"


@pytest.fixture(scope="module")
def kube(apiserver: ApiServer) -> Iterator[Kube]:
    with Kube(apiserver) as client:
        client.install((ROOT / "crds/longshore.dev_modeldeployments.yaml").read_text())
        client.namespace(NAMESPACE)
        yield client


@pytest.fixture
def doubles() -> Iterator[str]:
    """A server of the chart's own model; gives its url."""
    session = onnxruntime.InferenceSession(CHART / "files/doubles.onnx", providers=["CPUExecutionProvider"])
    (tensor,) = session.get_inputs()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer({"inputs": [{"name": tensor.name, "datatype": "FP32", "shape": [-1, 3]}]})

        def do_POST(self) -> None:
            (given,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            rows = np.array(given["data"], np.float32).reshape(given["shape"])
            (result,) = session.run(None, {given["name"]: rows})
            self.answer({"outputs": [{"name": "y", "data": result.ravel().tolist()}]})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v2/models/doubles"
    server.shutdown()
    thread.join()
    server.server_close()


def act(kube: Kube, name: str, ready: str, url: str) -> None:
    """Stand in for the operator: write the status once the ModelDeployment is there."""
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "Serving" if ready == "True" else "NotFound",
        "message": "-",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"phase": "Acting", "message": "as told", "url": url, "conditions": [condition]}
    path = models_path(NAMESPACE, name)
    wait_for(name, lambda: kube.get(path) is not None, seconds=20, next_step="read what the check raised")
    answer = kube.call("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")
    assert answer.status == 200, answer


def run(kube: Kube, name: str, ready: str, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command with an operator that answers so."""
    command = [str(Path(sys.executable).with_name("longshore")), "operator", "check", MODEL]
    environment = {**os.environ, "KUBECONFIG": str(kube.server.kubeconfig)}
    process = subprocess.Popen(
        [*command, f"--name={name}", f"--namespace={NAMESPACE}", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            act(kube, name, ready, url)
            said, complaint = process.communicate(timeout=60)
        finally:
            process.kill()
    assert kube.get(models_path(NAMESPACE, name)) is None, "the check left its model behind"
    return subprocess.CompletedProcess(process.args, process.returncode, said, complaint)


RIGHT = ("--question=[1, 2, 3]", "--answer=[2, 4, 6]")


def test_a_right_answer_of_a_ready_model_passes(kube: Kube, doubles: str) -> None:
    done = run(kube, "right", "True", doubles, *RIGHT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Acting: as told\n")
    assert "answered [2.0, 4.0, 6.0]" in done.stdout


def test_without_a_question_zeros_are_asked(kube: Kube, doubles: str) -> None:
    done = run(kube, "zeros", "True", doubles)
    assert done.returncode == 0, done.stderr
    assert "answered [0.0, 0.0, 0.0]" in done.stdout


def test_a_wrong_answer_fails(kube: Kube, doubles: str) -> None:
    done = run(kube, "wrong", "True", doubles, "--question=[1, 2, 3]", "--answer=[1, 2, 3]")
    assert done.returncode == 1
    assert "answered [2.0, 4.0, 6.0], not [1, 2, 3]" in done.stderr


def test_a_model_that_never_gets_ready_fails_with_what_was_last_said(kube: Kube, doubles: str) -> None:
    done = run(kube, "never", "False", doubles, *RIGHT, "--timeout=5")
    assert done.returncode == 1
    assert re.search(r"last: Acting: as told; next step: .*get events", done.stderr)


def test_a_url_that_nobody_answers_fails_with_the_cause(kube: Kube) -> None:
    done = run(kube, "silent", "True", "http://127.0.0.1:9/v2/models/x", *RIGHT, "--timeout=5")
    assert done.returncode == 1
    assert re.search(r"last: http://127.0.0.1:9/v2/models/x: .*onnect", done.stderr)
