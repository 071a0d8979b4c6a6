"""kubectl and helm, always with the kubeconfig of the chosen cluster."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError
from e2e.cluster.target import Environment

_FORWARD_SECONDS = 20


@dataclass(frozen=True)
class Tools:
    """The programs, and the cluster they talk to."""

    kubectl_program: str
    helm_program: str
    kubeconfig: Path

    @classmethod
    def of(cls, environment: Environment) -> "Tools":
        """Find the programs: those built for the local cluster, else those on PATH.

        Raises:
            ClusterError: one of them is missing.
        """
        search = os.pathsep.join([str(environment.programs or ""), os.environ.get("PATH", "")])
        found = {name: shutil.which(name, path=search) for name in ("kubectl", "helm")}
        if missing := [name for name, path in found.items() if path is None]:
            raise ClusterError(
                f"{' and '.join(missing)} not found.\n"
                "  next step: install it, or `make cluster-build`, which builds it from source"
            )
        return cls(str(found["kubectl"]), str(found["helm"]), environment.kubeconfig)

    def kubectl(self, *arguments: str, seconds: float = 60) -> str:
        """Run kubectl; raises ClusterError with its words."""
        return run([self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *arguments], seconds=seconds)

    def helm(self, *arguments: str, seconds: float = 300) -> str:
        """Run helm; raises ClusterError with its words."""
        return run([self.helm_program, f"--kubeconfig={self.kubeconfig}", *arguments], seconds=seconds)

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        """Read one object; None when it does not exist."""
        text = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    @contextmanager
    def forwarded(self, service: str, port: int, namespace: str) -> Iterator[str]:
        """Reach a Service from this machine while the context lasts; gives `127.0.0.1:PORT`.

        Raises:
            ClusterError: no pod of the Service took the connection.
        """
        command = [self.kubectl_program, f"--kubeconfig={self.kubeconfig}", "port-forward", "-n", namespace]
        process = subprocess.Popen(
            [*command, f"service/{service}", f":{port}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            said = b""
            deadline = time.monotonic() + _FORWARD_SECONDS
            while b"Forwarding from 127.0.0.1:" not in said:
                left = deadline - time.monotonic()
                ready, _, _ = select.select([process.stdout], [], [], max(left, 0))
                chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
                said += chunk
                if not chunk:
                    raise ClusterError(
                        f"service {namespace}/{service} cannot be reached: {said.decode(errors='replace')}\n"
                        f"  next step: `kubectl -n {namespace} get pods,endpointslices`"
                    )
            yield said.decode().split("Forwarding from ", 1)[1].split(" ", 1)[0]
        finally:
            process.kill()
            process.wait(10)
            process.stdout.close()
