"""The chart's activators in a namespace of their own, for an operator that runs beside the cluster."""

import base64
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx

from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.operator import ROOT
from e2e.kit.wait import eventually

CONTROL_PORT = 8090


def install(kube: Kube, namespace: str, folder: Path) -> Path:
    """Run the activators; gives a file in `folder` with their token."""
    helm = kube.kubectl_path.parent / "helm"
    chart = [str(helm), "template", "scenarios", str(ROOT / "charts" / "longshore")]
    chosen = ["--kube-version", "1.36.0", "--namespace", namespace, "--set", "activator.enabled=true"]
    shown = ["--show-only", "templates/activator.yaml"]
    rendered = subprocess.run([*chart, *chosen, *shown], check=True, stdout=subprocess.PIPE, text=True).stdout
    kube("apply", "-n", namespace, "-f", "-", stdin=rendered)
    secret = kube.get("secret", "scenarios-longshore-activator", namespace)
    assert secret is not None
    path = folder / "token"
    path.write_bytes(base64.b64decode(secret["data"]["token"]))
    return path


@dataclass(frozen=True)
class Activator:
    """One pod of the activators: what it says about itself, and its end without a word."""

    address: str
    container: str
    token: str

    async def held(self, model: ModelDeployment) -> int:
        """Give the clients of a model in its hands; none while it cannot be asked."""
        try:
            async with httpx.AsyncClient(
                timeout=2, headers={"Authorization": f"Bearer {self.token}"}
            ) as client:
                found = (await client.get(f"http://{self.address}:{CONTROL_PORT}/v1/routes")).json()
        except httpx.TransportError:
            return 0
        key = f"{model.namespace}/{model.name}"
        return sum(int(numbers["held"]) for numbers in found["models"] if numbers["key"] == key)

    def kill(self) -> int:
        """End its processes with SIGKILL, as the kernel does when memory is short; gives how many there were.

        None means that the node is another machine.
        """
        count = 0
        for group in Path("/proc").glob("[0-9]*/cgroup"):
            try:
                mine = self.container in group.read_text()
            except OSError:  # it ended while we looked
                continue
            if mine:
                os.kill(int(group.parent.name), signal.SIGKILL)
                count += 1
        return count


def running(kube: Kube, namespace: str, token: Path) -> list[Activator]:
    """Give the activators of a namespace, once all of them are ready."""
    secret = token.read_text()

    def look() -> list[Activator] | None:
        pods = kube.list("pods", namespace, "app.kubernetes.io/component=activator")
        states = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
        if not states or len(states) != len(pods) or not all(state["ready"] for state in states):
            return None
        return [
            Activator(pod["status"]["podIP"], state["containerID"].rpartition("/")[2], secret)
            for pod, state in zip(pods, states, strict=True)
        ]

    return eventually(look, "all activators are ready", 60)
