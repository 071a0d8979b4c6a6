"""A plain HTTP client of the API server, for what tests do beside the operator."""

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx
import yaml

from e2e.cluster.apiserver import ApiServer

Object = dict[str, Any]
MODELS = "/apis/longshore.dev/v1alpha1"

BUSY_SECONDS = 30.0
"""How long a busy server is asked again."""

ESTABLISHED_SECONDS = 30.0
"""How long a kind may take until it is served."""


@dataclass(frozen=True)
class Answer:
    """Status code and JSON body."""

    status: int
    body: Object

    @property
    def message(self) -> str:
        """What the API server said."""
        return str(self.body.get("message", ""))


class Kube:
    """Speaks JSON with one API server as its administrator."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        context = ssl.create_default_context(cafile=str(server.certificate_authority))
        context.load_cert_chain(server.certificate, server.key)
        self._client = httpx.Client(base_url=server.url, verify=context, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Answer:
        """Send one request; never raises for a status.

        A server that is busy (429) is asked again, as any client would: a kind that was just installed is
        answered so until its storage is ready.
        """
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            answer = self._client.request(method, path, content=content, headers=headers)
            if answer.status_code != 429 or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return Answer(answer.status_code, answer.json() if is_json else {"message": answer.text})

    def get(self, path: str) -> Object | None:
        """Read; None when it does not exist."""
        answer = self.call("GET", path)
        if answer.status == 404:
            return None
        assert answer.status == 200, answer
        return answer.body

    def items(self, path: str) -> list[Object]:
        """Read a list."""
        answer = self.call("GET", path)
        assert answer.status == 200, answer
        return list(answer.body["items"])

    def create(self, path: str, obj: Mapping[str, Any]) -> Object:
        """Create; fails the test when refused."""
        answer = self.call("POST", path, obj)
        assert answer.status in (200, 201), answer
        return answer.body

    def apply(self, path: str, obj: Mapping[str, Any], manager: str = "tests") -> Object:
        """Server-side apply; fails the test when refused."""
        query = f"?fieldManager={manager}&force=true"
        answer = self.call("PATCH", path + query, obj, "application/apply-patch+yaml")
        assert answer.status in (200, 201), answer
        return answer.body

    def merge(self, path: str, patch: Mapping[str, Any]) -> Object:
        """Merge patch; fails the test when refused."""
        answer = self.call("PATCH", path + "?fieldManager=tests", patch, "application/merge-patch+json")
        assert answer.status == 200, answer
        return answer.body

    def delete(self, path: str, propagation: str = "Background") -> None:
        """Delete; what is gone is fine."""
        answer = self.call("DELETE", f"{path}?propagationPolicy={propagation}")
        assert answer.status in (200, 202, 404), answer

    def namespace(self, name: str) -> str:
        """Make a namespace unless it is there; gives its name."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        assert self.call("POST", "/api/v1/namespaces", body).status in (201, 409)
        return name

    def install(self, definition: str) -> None:
        """Apply a CustomResourceDefinition and wait until it is served."""
        crd = yaml.load(definition, yaml.CSafeLoader)
        place = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
        self.apply(place, crd)
        deadline = time.monotonic() + ESTABLISHED_SECONDS
        while not self._established(place):
            assert time.monotonic() < deadline, f"{crd['metadata']['name']} is not served"
            time.sleep(0.05)

    def _established(self, place: str) -> bool:
        conditions = (self.get(place) or {}).get("status", {}).get("conditions") or ()
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def model(name: str, spec: Mapping[str, Any] | None = None, namespace: str = "default") -> Object:
    """Give a ModelDeployment; without a spec, of a small ONNX model."""
    return {
        "apiVersion": "longshore.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": dict(spec) if spec is not None else {"model": {"uri": "https://models.example/m.onnx"}},
    }


def models_path(namespace: str, name: str = "") -> str:
    """Give the path of the ModelDeployments of a namespace, or of one."""
    return f"{MODELS}/namespaces/{namespace}/modeldeployments" + (f"/{name}" if name else "")
