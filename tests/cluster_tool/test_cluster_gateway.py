"""The Gateway add-on: routes of the Gateway API take real traffic where they say."""

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from e2e.cluster import addons
from e2e.cluster.apiserver import ApiServer
from e2e.cluster.choose import chosen
from e2e.cluster.fixtures import Cluster
from e2e.cluster.network import NODE_IP
from e2e.cluster.wait import wait_for

NAMESPACE = "gateway-test"


def say(line: str) -> None:
    """Say nothing."""


@pytest.mark.apiserver
def test_the_kinds_of_the_gateway_api_can_be_used_at_once(apiserver: ApiServer) -> None:
    addons.install_gateway_api(apiserver.kubeconfig, say)
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "one", "namespace": "default"},
        "spec": {"rules": [{"backendRefs": [{"name": "a", "port": 80, "weight": 90}]}]},
    }
    apiserver.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(route))
    assert apiserver.kubectl("get", "httproute", "one", "-o", "name").strip().endswith("/one")
    apiserver.kubectl("delete", "httproute", "one")


@contextmanager
def backend(name: str) -> Iterator[int]:
    """An HTTP server on the node's address that answers with its name; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *arguments: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer((NODE_IP, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def service(name: str, port: int) -> list[dict[str, object]]:
    """A Service of one endpoint on the node."""
    metadata = {"name": name, "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"port": port}],
            "endpoints": [{"addresses": [NODE_IP], "conditions": {"ready": True}}],
        },
    ]


def ask(address: str, host: str) -> str:
    connection = http.client.HTTPConnection(address, addons.GATEWAY_PORTS["http"], timeout=5)
    try:
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        body = answer.read().decode()
        return body if answer.status == 200 else str(answer.status)
    finally:
        connection.close()


@pytest.mark.cluster
def test_a_routes_weights_are_what_its_clients_see(cluster: Cluster) -> None:
    address = addons.install_gateway(chosen(), say)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    with backend("stable") as stable, backend("canary") as canary:
        route = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "split", "namespace": NAMESPACE},
            "spec": {
                "parentRefs": [{"name": addons.GATEWAY_NAME, "namespace": addons.GATEWAY_NAMESPACE}],
                "hostnames": ["split.example"],
                "rules": [
                    {
                        "backendRefs": [
                            {"name": "stable", "port": 80, "weight": 90},
                            {"name": "canary", "port": 80, "weight": 10},
                        ]
                    }
                ],
            },
        }
        objects = [namespace, *service("stable", stable), *service("canary", canary), route]
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects)))
        try:
            wait_for(
                "the route",
                lambda: ask(address, "split.example") in ("stable", "canary"),
                seconds=30,
                next_step="kubectl -n gateway-test describe httproute split",
            )
            seen = Counter(ask(address, "split.example") for _ in range(200))
            assert set(seen) == {"stable", "canary"}
            # Routes that others change meanwhile have the gateway begin its round anew.
            assert abs(seen["canary"] - 20) <= 4, seen
            assert ask(address, "other.example") == "404"
        finally:
            cluster.kubectl("delete", "namespace", NAMESPACE, seconds=120)
