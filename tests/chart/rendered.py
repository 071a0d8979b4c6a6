"""What the tests of the chart share: helm, and objects rendered from values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.command import run

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/longshore"

Object = dict[str, Any]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Helm:
    """The real helm."""

    program: Path
    scratch: Path

    def __call__(self, *arguments: str, seconds: float = 60) -> str:
        """Run helm; raises ClusterError with its words."""
        environment = {
            "HELM_CACHE_HOME": str(self.scratch),
            "HOME": str(self.scratch),
            "PATH": "/usr/bin:/bin",
        }
        return run([self.program, *arguments], seconds=seconds, env=environment)

    def values(self, values: Values) -> Path:
        """Write values to a file of their own."""
        path = self.scratch / f"values-{abs(hash(json.dumps(values, sort_keys=True)))}.json"
        path.write_text(json.dumps(values))
        return path

    def render(
        self, values: Values | None = None, namespace: str = "longshore-system", version: str = "1.36.0"
    ) -> list[Object]:
        """Render the chart as release `longshore`."""
        text = self(
            *("template", "longshore", str(CHART), "-n", namespace, "--kube-version", version),
            *("-f", str(self.values(values or {}))),
        )
        return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """Give the one object of that kind and name."""
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def names(objects: list[Object], kind: str) -> list[str]:
    """Give the names of all objects of a kind."""
    return [o["metadata"]["name"] for o in objects if o["kind"] == kind]


def environment(deployment: Object) -> dict[str, str]:
    """Give the environment of a Deployment's first container, without what the pod itself fills in."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return {e["name"]: e["value"] for e in container["env"] if "value" in e}
