"""The chart's activators in a namespace of their own, for an operator that runs beside the cluster."""

import base64
import subprocess
from pathlib import Path

from e2e.kit.kube import Kube
from e2e.kit.operator import ROOT


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
