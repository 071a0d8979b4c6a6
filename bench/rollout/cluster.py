"""What only a real cluster shows; measured where `LONGSHORE_BENCH_CLUSTER=1` says that there is one."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import Row
from e2e.cluster import addons, choose
from e2e.kit import registry
from e2e.kit.gateway import Weights, host_of, infer_url, route_to, told_by_a_model
from e2e.kit.kube import Kube
from e2e.kit.load import Load
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import classifier, fragile
from e2e.kit.operator import REGISTRY_FROM_NODE, REGISTRY_FROM_PODS, ROOT, Operator
from e2e.kit.wait import eventually

VARIABLE = "LONGSHORE_BENCH_CLUSTER"
RATE = 50.0
"""Requests a second."""
FAULTS = 3
"""How often a canary is let go bad."""
GOOD_SECONDS = 20.0
"""How long a canary answers well before it does not."""

ABORT = "real cluster, 100 % errors, 50 rps: fault to weight 0 at the gateway"
GOOD = "real cluster, failed requests through a good rollout under load"
EXTRA = "real cluster, failed requests through an abort beyond the canary's own"
KILLED = "real cluster, operator killed at any step: ends that differ"

_FIRST = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
_SECOND = classifier(np.eye(4, dtype=np.float32), np.full(4, 1e-4, np.float32))
_SMALL = {"x": np.array([[1, 1, 1, 1]], np.float32)}
_LARGE = {"x": np.array([[9, 1, 1, 1]], np.float32)}
_RISING: Mapping[str, Any] = {
    "steps": [{"weight": 20, "hold": "5s"}, {"weight": 50, "hold": "5s"}],
    "analysis": {"warmup": "1s"},
}
_GATED: Mapping[str, Any] = {"steps": [{"weight": 10, "pause": {}}], "analysis": {"warmup": "1s"}}


def rows() -> list[Row]:
    """Give the four rows, without values where no cluster is to be used."""
    if not os.environ.get(VARIABLE):
        note = f"needs the cluster of `make cluster`, and {VARIABLE}=1"
        return [
            _abort_row(None, note),
            _good_row(None, note),
            _extra_row(None, note),
            _killed_row(None, note),
        ]
    with _stage() as stage:
        good = _good_rollout(stage)
        faults = [_fault(stage, number) for number in range(FAULTS)]
        ends = _killed(stage)
    seconds = sorted(fault.seconds for fault in faults)
    told = ", ".join(f"{value:.1f}" for value in seconds)
    own = sum(fault.own for fault in faults)
    wrong = sum(not end for end in ends)
    return [
        _abort_row(
            round(statistics.median(seconds), 2),
            f"median of {FAULTS}: {told} s; from the first request that only the canary cannot answer to the "
            "last one that failed, at 10 % weight, through Traefik",
        ),
        _good_row(good.failed, f"of {good.sent} requests at 50 rps, weights {good.weights}, through Traefik"),
        _extra_row(sum(f.extra for f in faults), f"{FAULTS} aborts; the canary itself failed {own}"),
        _killed_row(
            wrong, f"{len(ends)} kills: when each weight was written, and when promotion or abort began"
        ),
    ]


def _abort_row(value: float | None, note: str) -> Row:
    return Row(ABORT, value, "s", "<=", 10, note)


def _good_row(value: float | None, note: str) -> Row:
    return Row(GOOD, value, "requests", "==", 0, note)


def _extra_row(value: float | None, note: str) -> Row:
    return Row(EXTRA, value, "requests", "==", 0, note)


def _killed_row(value: float | None, note: str) -> Row:
    return Row(KILLED, value, "ends", "==", 0, note)


@dataclass(frozen=True)
class _Stage:
    """A namespace of the cluster with an operator at work in it."""

    kube: Kube
    namespace: str
    operator: Operator

    def serve(self, name: str, rollout: Mapping[str, Any]) -> tuple[ModelDeployment, str]:
        """Serve a first revision through the Gateway; gives its name."""
        model = ModelDeployment(self.kube, self.namespace, name)
        self.change(model, rollout, _FIRST)
        model.wait_ready()
        model.wait_for("Routed", "True")
        return model, str(model.read()["status"]["stable"]["revision"])

    def change(self, model: ModelDeployment, rollout: Mapping[str, Any], onnx: bytes) -> None:
        """Ask for a revision."""
        tag = uuid.uuid4().hex[:8]
        registry.push(REGISTRY_FROM_NODE, model.name, tag, {"model.onnx": onnx})
        uri = f"oci://{REGISTRY_FROM_PODS}/{model.name}:{tag}"
        model.apply({"model": {"uri": uri}, "rollout": rollout, "route": route_to(model.name)})

    def load(self, model: ModelDeployment) -> Load:
        """Send requests through the Gateway."""
        url = infer_url(self.kube, model.name)
        return Load(model, _SMALL, RATE, url, {"Host": host_of(model.name)})


@contextmanager
def _stage() -> Iterator[_Stage]:
    tool = [sys.executable, "-m", "e2e.cluster", "env"]
    said = subprocess.run(tool, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    exported = dict(line.removeprefix("export ").split("=", 1) for line in said.splitlines())
    kube = Kube(Path(exported["KUBECONFIG"]), Path(exported["PATH"].partition(":")[0]) / "kubectl")
    addons.install_gateway(choose.chosen(), lambda line: None)
    kube("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    kube("create", "namespace", namespace)
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(kube.kubeconfig, namespace, Path(folder) / "operator.log")
        operator.start()
        try:
            yield _Stage(kube, namespace, operator)
        finally:
            kube("delete", "modeldeployments", "--all", "-n", namespace, "--timeout=60s")
            operator.end()
            kube("delete", "namespace", namespace, "--wait=false")


@dataclass(frozen=True)
class _Good:
    failed: int
    sent: int
    weights: str


def _good_rollout(stage: _Stage) -> _Good:
    """Roll out a revision that is as good, under load."""
    model, first = stage.serve("good", _RISING)
    with stage.load(model) as load, Weights(model) as weights:
        _warm(load)
        before = load.sent, len(load.failures)
        stage.change(model, _RISING, _SECOND)
        _promoted(model, first)
        eventually(lambda: weights.canary == 0, "the route leads to the stable side again", 30)
        time.sleep(2)
    _say(load)
    shown = ", ".join(str(canary) for _, _, canary in weights.seen)
    _remove(model)
    return _Good(len(load.failures) - before[1], load.sent - before[0], shown)


@dataclass(frozen=True)
class _Fault:
    seconds: float
    own: int
    extra: int


def _fault(stage: _Stage, number: int) -> _Fault:
    """Let a canary go from good to 100 % errors; the stable revision answers the same requests."""
    model, _ = stage.serve(f"fault-{number}", _GATED)
    with stage.load(model) as load, Weights(model) as weights:
        _warm(load)
        before = len(load.failures)
        stage.change(model, _GATED, fragile(5))
        eventually(lambda: weights.canary == 10, "the canary has its weight", 120)
        time.sleep(GOOD_SECONDS)
        began = load.ask(_LARGE)
        eventually(lambda: weights.canary == 0, "the weight is taken back", 120, 0.05)
        model.wait_for("Stalled", "True", "RolloutAborted", 60)
        time.sleep(3)
    _say(load)
    failed = [moment for moment, outcome in load.times if outcome != "200" and moment >= began]
    taken_back = next(moment for moment, _, canary in weights.seen if moment >= began and canary == 0)
    _remove(model)
    failures = load.failures[before:]
    own = sum(map(told_by_a_model, failures))
    return _Fault(max([taken_back, *failed]) - began, own, len(failures) - own)


def _killed(stage: _Stage) -> list[bool]:
    """Kill the operator at steps of a good and of a bad rollout; tells of each kill if the end was right."""
    found: list[bool] = []
    model, first = stage.serve("killed-good", _RISING)
    with stage.load(model) as load, Weights(model) as weights:
        _warm(load)
        before = len(load.failures)
        stage.change(model, _RISING, _SECOND)
        kills = _kill_at(stage, [lambda: _phase(model) == "Starting", lambda: weights.canary == 20])
        kills += _kill_at(stage, [lambda: weights.canary == 50, lambda: _stable(model) != first])
        _promoted(model, first)
        eventually(lambda: weights.canary == 0, "the route leads to the stable side again", 60)
    right = all(stable + canary == 100 for _, stable, canary in weights.seen)
    right = right and _stable(model) != first and _ready(model)
    found += [right and len(load.failures) == before] * kills
    _remove(model)
    model, first = stage.serve("killed-bad", _GATED)
    with stage.load(model) as load, Weights(model) as weights:
        _warm(load)
        before = len(load.failures)
        stage.change(model, _GATED, fragile(5))
        kills = _kill_at(stage, [lambda: weights.canary == 10])
        load.ask(_LARGE)
        kills += _kill_at(stage, [lambda: weights.canary == 0])
        model.wait_for("Stalled", "True", "RolloutAborted", 120)
    right = all(stable + canary == 100 for _, stable, canary in weights.seen)
    right = right and weights.canary == 0 and _stable(model) == first and _ready(model)
    found += [right and all(map(told_by_a_model, load.failures[before:]))] * kills
    _remove(model)
    return found


def _kill_at(stage: _Stage, moments: list[Callable[[], bool]]) -> int:
    """Kill the operator at each moment and start it again at once; gives how often."""
    for moment in moments:
        eventually(moment, "the moment to kill", 180, 0.002)
        stage.operator.end(signal.SIGKILL)
        stage.operator.start()
    return len(moments)


def _phase(model: ModelDeployment) -> str:
    state = model.read()["status"].get("rollout", {}).get("state", {})
    return str(state.get("phase", ""))


def _stable(model: ModelDeployment) -> str:
    return str(model.read()["status"]["stable"]["revision"])


def _ready(model: ModelDeployment) -> bool:
    return bool(model.condition("Ready").get("status") == "True")


def _promoted(model: ModelDeployment, first: str) -> None:
    eventually(lambda: model.wait_ready(240)["status"]["stable"]["revision"] != first, "it is promoted", 240)


def _warm(load: Load) -> None:
    """Wait until answers come: a gateway learns of a new route a moment after its status says so."""
    eventually(lambda: load.outcomes["200"] > 2 * RATE, "load runs", 60)


def _remove(model: ModelDeployment) -> None:
    model.kube("delete", "modeldeployment", model.name, "-n", model.namespace, "--timeout=60s")


def _say(load: Load) -> None:
    print(f"{load.target.name}: {dict(load.outcomes)} {load.failures[:1]}", file=sys.stderr)
