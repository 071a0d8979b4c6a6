"""The Gateway of the cluster, and what stands in a route that leads through it."""

import subprocess
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from e2e.cluster.addons import GATEWAY_NAME, GATEWAY_NAMESPACE, GATEWAY_PORTS
from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.wait import eventually

_WEIGHTS = '{.spec.rules[?(@.name=="longshore")].backendRefs[*].weight}{"\\n"}'


def route_to(name: str) -> dict[str, Any]:
    """Give a `spec.route` through the Gateway, for HTTP and for gRPC, with a host name of its own."""
    parent = {"name": GATEWAY_NAME, "namespace": GATEWAY_NAMESPACE}
    return {
        "parentRefs": [{**parent, "sectionName": "http"}],
        "grpcParentRefs": [{**parent, "sectionName": "grpc"}],
        "hostnames": [host_of(name)],
    }


def host_of(name: str) -> str:
    """Give the host name of a model at the Gateway."""
    return f"{name}.models.example"


def infer_url(kube: Kube, name: str) -> str:
    """Give the address that inference requests go to at the Gateway; the header Host chooses the model."""
    service = kube.get("service", "traefik", GATEWAY_NAMESPACE)
    assert service is not None, "the Gateway is not installed: python -m e2e.cluster addon gateway"
    return f"http://{service['spec']['clusterIP']}:{GATEWAY_PORTS['http']}/v2/models/{name}/infer"


def grpc_place(kube: Kube) -> str:
    """Give HOST:PORT of the Gateway for gRPC; the authority chooses the model."""
    service = kube.get("service", "traefik", GATEWAY_NAMESPACE)
    assert service is not None, "the Gateway is not installed: python -m e2e.cluster addon gateway"
    return f"{service['spec']['clusterIP']}:{GATEWAY_PORTS['grpc']}"


def told_by_a_model(failure: str) -> bool:
    """Tell whether a failure of a load is a model's own answer: a gateway's has no JSON in it."""
    return failure.partition(": ")[2].startswith('{"error"')


@dataclass
class Weights:
    """Every division that a model's HTTPRoute goes through while this is open, as watched.

    Attributes:
        model: the ModelDeployment.
        seen: time (seconds since the epoch), percent to the stable revision, percent to the canary.
    """

    model: ModelDeployment
    seen: list[tuple[float, int, int]] = field(default_factory=list)

    def __enter__(self) -> Self:
        kube = self.model.kube
        self._watch = subprocess.Popen(
            [
                str(kube.kubectl_path),
                *("--kubeconfig", str(kube.kubeconfig), "-n", self.model.namespace),
                *("get", "httproute", self.model.name, "--watch", "-o", f"jsonpath={_WEIGHTS}"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: self.seen, "the route is watched", 30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.terminate()
        self._watch.wait(30)
        self._thread.join(30)
        assert self._watch.stdout is not None
        self._watch.stdout.close()

    @property
    def canary(self) -> int:
        """Percent to the canary now."""
        return self.seen[-1][2]

    def _read(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            stable, canary = map(int, line.split())
            if not self.seen or self.seen[-1][1:] != (stable, canary):
                self.seen.append((time.time(), stable, canary))
