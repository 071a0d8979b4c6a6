"""The operator as a process of this machine, at work on a cluster."""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from e2e.kit import images

NODE_ADDRESS = "10.244.0.1"
"""The node as pods reach it."""
REGISTRY_FROM_PODS = f"{NODE_ADDRESS}:5000"
REGISTRY_FROM_NODE = "localhost:5000"
ROOT = Path(__file__).parents[2]


@dataclass
class Operator:
    """An operator for one namespace; `end` and `start` are what a crash and a restart are."""

    kubeconfig: Path
    namespace: str
    log: Path
    activator_token: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        activators = []
        if self.activator_token is not None:
            activators = ["--activator-token", str(self.activator_token)]
            activators += ["--activator-namespace", self.namespace]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(ROOT / ".venv/bin/longshore"),
                    *("operator", "run", "--port", "0", "--no-elect", "--namespace", self.namespace),
                    *("--store", f"oci://{REGISTRY_FROM_PODS}/longshore", "--store-plain-http"),
                    *("--node-registry", f"{REGISTRY_FROM_PODS}={REGISTRY_FROM_NODE}"),
                    *("--plain-http-registry", REGISTRY_FROM_PODS),
                    *("--server-image", f"{REGISTRY_FROM_NODE}/{images.push(REGISTRY_FROM_NODE, 'server')}"),
                    *activators,
                ],
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
                stderr=log,
                stdout=log,
            )

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, by SIGKILL as a crash does or by SIGTERM as a rolling update does."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None
