"""The model of the demo: trained here, pushed to the cluster's registry, asked through its Service."""

import asyncio
import hashlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from longshore_optimizer.push import push

from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY, cache_root
from e2e.demo.tools import Tools

MANIFEST = REPOSITORY / "examples" / "digits.yaml"
NAMESPACE, NAME = "default", "digits"
_TRAIN = REPOSITORY / "examples" / "digits" / "train.py"
_TRAIN_SECONDS = 300
_PUSHED = {
    "digits.onnx": "examples/digits:1",
    "calibration.npz": "examples/digits-calibration:1",
    "evaluation.npz": "examples/digits-evaluation:1",
}
"""What `examples/digits.yaml` names, below the registry's host."""

_ROWS = 100
"""Digits in one request."""


def train() -> Path:
    """Train the model unless this very script did so before; gives the folder of its files."""
    key = hashlib.sha256(_TRAIN.read_bytes()).hexdigest()[:16]
    folder = cache_root() / "demo" / f"digits-{key}"
    if all((folder / name).is_file() for name in _PUSHED):
        return folder
    done = subprocess.run(
        [sys.executable, str(_TRAIN), "--out", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=_TRAIN_SECONDS,
    )
    if done.returncode:
        raise ClusterError(
            f"the training failed: {done.stderr[-1000:]}\n  next step: `python {_TRAIN} --out /tmp/d`"
        )
    return folder


def push_all(tools: Tools, folder: Path, service: str, namespace: str) -> list[str]:
    """Push model and data to the registry in the cluster; gives the pinned uris, as seen from here."""
    with tools.forwarded(service, 5000, namespace) as address:
        return [
            asyncio.run(push(folder / file, f"oci://{address}/{place}", plain_http=True))
            for file, place in _PUSHED.items()
        ]


@dataclass(frozen=True)
class Answers:
    """What the served model said: how many held-out digits were asked, how many answers were right, and how
    long all of it took in seconds."""

    asked: int
    right: int
    seconds: float
    first: list[tuple[int, int]]


def ask(tools: Tools, folder: Path, count: int, namespace: str = NAMESPACE) -> Answers:
    """Send held-out digits to the model by the Open Inference Protocol and compare with their labels.

    Raises:
        ClusterError: the model did not answer, or not with one digit a row.
    """
    with np.load(folder / "evaluation.npz") as data:
        labels = data["labels"][:count]
        (name,) = [key for key in data.files if key != "labels"]
        images = data[name][:count]
    said: list[int] = []
    with (
        tools.forwarded(NAME, 80, namespace) as address,
        httpx.Client(base_url=f"http://{address}/v2/models/{NAME}", timeout=30, trust_env=False) as client,
    ):
        begun = time.monotonic()
        for start in range(0, len(images), _ROWS):
            said += _infer(client, name, images[start : start + _ROWS])
        taken = time.monotonic() - begun
    if len(said) != len(labels):
        raise ClusterError(
            f"{len(labels)} digits were asked, {len(said)} answered.\n  next step: see its log"
        )
    right = int((np.array(said) == labels).sum())
    return Answers(len(said), right, taken, list(zip(said[:8], labels[:8].tolist(), strict=True)))


def _infer(
    client: httpx.Client, name: str, rows: "np.ndarray[tuple[int, int], np.dtype[np.float32]]"
) -> list[int]:
    tensor = {"name": name, "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    try:
        answer = client.post("infer", json={"inputs": [tensor]}).raise_for_status()
    except httpx.HTTPStatusError as error:
        raise ClusterError(
            f"the model answered HTTP {error.response.status_code}: {error.response.text[:500]}\n"
            f"  next step: `kubectl logs -l longshore.dev/name={NAME}`"
        ) from None
    except httpx.HTTPError as error:
        raise ClusterError(
            f"the model did not answer: {error}\n  next step: `kubectl get md,pods`, then run the demo again"
        ) from None
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    for output in outputs.values():
        if output["datatype"].startswith("INT"):
            return [int(value) for value in output["data"]]
    (probabilities,) = outputs.values()
    table = np.array(probabilities["data"]).reshape(probabilities["shape"])
    return [int(value) for value in table.argmax(axis=1)]
