"""The real node, taken down and up again: run these alone, nothing else may use the cluster meanwhile."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import oci, processes, teardown
from e2e.cluster.build import programs_of_node
from e2e.cluster.choose import chosen
from e2e.cluster.kubectl import kubectl
from e2e.cluster.local import LocalCluster
from e2e.cluster.network import API_SERVICE_IP, NODE_IP
from e2e.cluster.paths import NodePaths
from e2e.cluster.wait import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

PATHS = NodePaths()
IMAGE = "localhost/longshore/node-test:1"
ARTIFACT = "localhost:5000/node-test/model:1"

# Answers every connection with the first line of the mounted model.
PROGRAM = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void) {
  char model[64] = "no model";
  FILE *file = fopen("/model/model.onnx", "r");
  if (file && !fgets(model, sizeof model, file)) return 1;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(8080)};
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 1;
  for (;;) {
    int connection = accept(listener, 0, 0);
    char answer[256], request[2048];
    read(connection, request, sizeof request);
    int length = snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\n\r\n%s", model);
    write(connection, answer, length);
    close(connection);
  }
}
"""


def say(line: str) -> None:
    """Show progress with `pytest -s`."""
    print(line, file=sys.stderr)


def kubectl_(*arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
    return kubectl(programs_of_node(say), PATHS.kubeconfig, *arguments, stdin=stdin, seconds=seconds)


def push(image: oci.Image, repository: str, tag: str) -> None:
    """Put an image in the node's registry by plain HTTP, as the optimizer does (distribution-spec v1.1)."""
    connection = http.client.HTTPConnection("localhost", 5000, timeout=20)
    for digest, content in image.blobs.items():
        connection.request("POST", f"/v2/{repository}/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        where = answer.headers["Location"]
        joint = "&" if "?" in where else "?"
        connection.request("PUT", f"{where}{joint}digest={digest}", body=content)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201
    media = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    connection.request("PUT", f"/v2/{repository}/manifests/{tag}", body=image.manifest, headers=media)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 201
    connection.close()


def restricted_pod(name: str) -> dict[str, object]:
    """A pod as the restricted standard wants it, with the model as an image volume."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "node-test", "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
                    "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}},
                    "volumeMounts": [{"name": "model", "mountPath": "/model"}],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
            "volumes": [{"name": "model", "image": {"reference": ARTIFACT}}],
        },
    }


def ask(address: str, port: int) -> str:
    """The first answer of the pod behind an address; empty while it gives none."""
    connection = http.client.HTTPConnection(address, port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def apply_workload(folder: Path) -> str:
    """Load the image and the model, start the pod behind a Service, and return the Service's address."""
    source, program, archive = folder / "main.c", folder / "main", folder / "main.tar"
    source.write_text(PROGRAM)
    subprocess.run(["gcc", "-static", "-Os", "-w", "-o", program, source], check=True)
    image = oci.image({"main": program.read_bytes()}, entrypoint=("/main",))
    archive.write_bytes(oci.archive(image, IMAGE))
    ctr = [programs_of_node(say) / "ctr", "-a", PATHS.containerd_socket, "-n", "k8s.io"]
    subprocess.run([*ctr, "images", "import", archive], check=True, capture_output=True)
    push(oci.image({"model.onnx": b"right answer"}), "node-test/model", "1")
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "node-test",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "one", "namespace": "node-test"},
        "spec": {"selector": {"app": "one"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    for each in (namespace, service):
        kubectl_("apply", "--server-side", "-f", "-", stdin=json.dumps(each))
    named = ("-n", "node-test", "get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
    wait_for(
        "the namespace's ServiceAccount, without which no pod is taken",
        lambda: bool(kubectl_(*named).strip()),
        seconds=60,
        next_step="is kube-controller-manager at work?",
        log=PATHS.logs / "kube-controller-manager.log",
        interval=0.1,
    )
    kubectl_("apply", "--server-side", "-f", "-", stdin=json.dumps(restricted_pod("one")))
    return json.loads(kubectl_("-n", "node-test", "get", "service", "one", "-o", "json"))["spec"]["clusterIP"]


def await_answer(address: str) -> None:
    wait_for(
        "the pod behind its Service",
        lambda: ask(address, 80) == "right answer",
        seconds=120,
        next_step="kubectl -n node-test describe pod",
        log=PATHS.logs / "kubelet.log",
        interval=0.2,
    )


@pytest.fixture
def node() -> Iterator[LocalCluster]:
    """The node, running before and after."""
    cluster = chosen()
    if not isinstance(cluster, LocalCluster):
        pytest.skip("these are about the local node, and another cluster is chosen")
    cluster.up(say)
    yield cluster
    cluster.up(say)


def test_starting_it_again_changes_nothing(node: LocalCluster) -> None:
    before = teardown.recorded(PATHS)
    assert node.up(say) == PATHS.kubeconfig
    assert teardown.recorded(PATHS) == before
    assert all(part.well for part in node.status())


def test_it_comes_back_after_everything_was_killed(node: LocalCluster, tmp_path: Path) -> None:
    address = apply_workload(tmp_path)
    await_answer(address)
    for identity in processes.marked(str(PATHS.root)):
        os.kill(identity.pid, 9)
    wait_for(
        "the killed processes", lambda: not processes.marked(str(PATHS.root)), seconds=10, next_step="ps"
    )
    assert not any(part.well for part in node.status())
    node.up(say)
    await_answer(address)
    assert all(part.well for part in node.status())
    kubectl_("delete", "namespace", "node-test", seconds=120)


@pytest.mark.parametrize("program", ["kubelet", "containerd", "kube-apiserver", "etcd", "coredns"])
def test_it_comes_back_after_one_component_was_killed(node: LocalCluster, program: str) -> None:
    os.kill(teardown.recorded(PATHS)[program].pid, 9)
    wait_for(
        "the killed process", lambda: program not in teardown.recorded(PATHS), seconds=10, next_step="ps"
    )
    assert [part.name for part in node.status() if not part.well][:1]
    node.up(say)
    assert all(part.well for part in node.status())


def test_taking_it_down_leaves_nothing(node: LocalCluster, tmp_path: Path) -> None:
    address = apply_workload(tmp_path)
    await_answer(address)
    node.down(say)
    assert teardown.leftovers(PATHS) == []
    node.down(say)
    node.up(say)
    assert "node-test" not in kubectl_("get", "namespaces")


def test_the_nodes_dns_knows_services(node: LocalCluster) -> None:
    # A query for the A record of this name (RFC 1035); the answer ends with the address.
    labels = ["kubernetes", "default", "svc", "cluster", "local"]
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels)
    query = bytes.fromhex("123401000001000000000000") + name + bytes.fromhex("0000010001")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(10)
        udp.sendto(query, (NODE_IP, 53))
        answer = udp.recv(512)
    assert socket.inet_ntoa(answer[-4:]) == API_SERVICE_IP
