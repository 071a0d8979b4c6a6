"""kubectl as a person uses it, with JSON in and out."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]


class KubectlError(AssertionError):
    """kubectl refused; the text is what it said."""


@dataclass(frozen=True)
class Kube:
    """One cluster, by its kubeconfig."""

    kubeconfig: Path
    kubectl_path: Path

    def __call__(self, *arguments: str, stdin: str | None = None, seconds: float = 60.0) -> str:
        """Run kubectl and give what it prints.

        Raises:
            KubectlError: it ended with an error.
        """
        done = subprocess.run(
            [str(self.kubectl_path), *arguments],
            input=stdin,
            text=True,
            capture_output=True,
            timeout=seconds,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            check=False,
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects as a user does."""
        for obj in objects:
            self("apply", "-f", "-", stdin=json.dumps(obj))

    def get(self, kind: str, name: str, namespace: str) -> Object | None:
        """Read one object; None when it does not exist."""
        text = self("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """List objects."""
        chosen = ["-l", selector] if selector else []
        items: list[Object] = json.loads(self("get", kind, "-n", namespace, "-o", "json", *chosen))["items"]
        return items
