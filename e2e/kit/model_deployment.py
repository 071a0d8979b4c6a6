"""A ModelDeployment under test: apply, look at its conditions, ask it questions."""

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from e2e.kit.kube import Kube, Object
from e2e.kit.wait import eventually

_DTYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    "int64": "INT64",
    "int32": "INT32",
    "uint8": "UINT8",
    "bool": "BOOL",
}
_NUMPY = {v: k for k, v in _DTYPES.items()}


@dataclass(frozen=True)
class ModelDeployment:
    """One ModelDeployment, by name."""

    kube: Kube
    namespace: str
    name: str

    def apply(self, spec: Mapping[str, Any], annotations: Mapping[str, str] | None = None) -> None:
        """Apply the spec; where it names no runtime, that of the environment variable RUNTIME serves."""
        if runtime := os.environ.get("RUNTIME"):
            spec = {**spec, "serving": {"runtime": runtime, **spec.get("serving", {})}}
        metadata: Object = {"name": self.name, "namespace": self.namespace}
        if annotations:
            metadata["annotations"] = dict(annotations)
        self.kube.apply(
            {
                "apiVersion": "longshore.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": metadata,
                "spec": copy.deepcopy(dict(spec)),
            }
        )

    def read(self) -> Object:
        """Read the object."""
        found = self.kube.get("modeldeployment", self.name, self.namespace)
        assert found is not None, f"ModelDeployment {self.name} does not exist"
        return found

    def condition(self, kind: str) -> Object:
        """Read a condition of the present generation; empty while there is none."""
        obj = self.read()
        for condition in obj.get("status", {}).get("conditions", []):
            if (
                condition["type"] == kind
                and condition.get("observedGeneration") == obj["metadata"]["generation"]
            ):
                return dict(condition)
        return {}

    def wait_for(self, kind: str, status: str, reason: str | None = None, seconds: float = 120.0) -> Object:
        """Wait for a condition.

        A pod that finds no room passes on a node that many tests share: who waits for it says so by `reason`.
        """

        def look() -> Object | None:
            found = self.condition(kind)
            seen = self.read().get("status", {}).get("message")
            assert found.get("status") == status, f"{kind} is {found.get('status')}: {seen}"
            told = found.get("reason")
            wanted = told == reason if reason else told != "Unschedulable"
            assert wanted, f"{kind}: {told}: {found['message']}"
            return found

        return eventually(look, f"{self.name}: {kind}={status} {reason or ''}", seconds)

    def wait_ready(self, seconds: float = 120.0, fail_on_stalled: bool = False) -> Object:
        """Wait until the revision of the present spec answers and nothing is under way.

        Raises:
            RuntimeError: it is stalled, and the caller said that this ends the wait.
        """

        def look() -> Object | None:
            ready, under_way = self.condition("Ready"), self.condition("Reconciling")
            obj = self.read()
            seen = obj.get("status", {}).get("message")
            if fail_on_stalled and self.condition("Stalled").get("status") == "True":
                raise RuntimeError(f"{self.name} is stalled: {seen}")
            assert ready.get("status") == "True", f"Ready is {ready.get('status')}: {seen}"
            assert under_way.get("status") == "False", f"still {under_way.get('reason')}: {seen}"
            return obj

        found = eventually(look, f"{self.name} is ready", seconds)
        # Every kube-proxy learns of a new endpoint within a second; until then a connection is refused.
        eventually(self._reached, f"the Service of {self.name} leads to a pod", 10, pause=0.05)
        return found

    def _reached(self) -> bool:
        try:
            return httpx.get(f"{self.address()}/v2/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def address(self) -> str:
        """Give the Service's address, reachable from the node."""
        service = self.kube.get("service", self.name, self.namespace)
        assert service is not None, f"Service {self.name} does not exist"
        return f"http://{service['spec']['clusterIP']}"

    def infer(self, inputs: Mapping[str, np.ndarray[Any, Any]], seconds: float = 10.0) -> dict[str, Any]:
        """Ask by the Open Inference Protocol (JSON) and give the outputs as arrays."""
        answer = httpx.post(
            f"{self.address()}/v2/models/{self.name}/infer", content=request_body(inputs), timeout=seconds
        )
        answer.raise_for_status()
        return {
            o["name"]: np.array(o["data"], dtype=_NUMPY.get(o["datatype"], "object")).reshape(o["shape"])
            for o in answer.json()["outputs"]
        }


def request_body(inputs: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Give an inference request as JSON."""
    return json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "datatype": _DTYPES[array.dtype.name],
                    "shape": list(array.shape),
                    "data": array.ravel().tolist(),
                }
                for name, array in inputs.items()
            ]
        }
    ).encode()


def start_deadline(seconds: int) -> str:
    """Give the duration in which a pod has started, or failed to; Triton's programs take longer to."""
    return f"{seconds * (2 if os.environ.get('RUNTIME') == 'Triton' else 1)}s"
