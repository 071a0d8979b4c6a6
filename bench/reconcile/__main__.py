"""`make bench-reconcile`: many ModelDeployments at once, against a bare client that applies the same objects.

No pod ever runs: a node selector that no node has keeps them Pending. The bare client's run comes first and
is cleaned away before the operator's; both go through the same API server in the same minute.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longshore.api.parse import parse_spec
from longshore.apply import stamped
from longshore.plan.pipeline import make_plan
from longshore.plan.revision import revision_of
from longshore.plan.state import Observed
from longshore.resources.kinds import MODEL_DEPLOYMENT, kind_of
from longshore.resources.names import Owner
from longshore.settings import Settings

from bench.common import Report, Row, median, versions
from bench.reconcile import prototype
from bench.reconcile.floor import Listener
from bench.reconcile.kube import Kube
from bench.reconcile.process import Operator
from e2e.cluster import apiserver
from e2e.cluster.paths import NodePaths

CLIENTS = 20
REPEATS = 3
CPU_SECONDS, PROTOTYPE_SECONDS = 4.0, 1.8
"""The target, and what the least operator took on the machine on which it was set."""
QUIET = 12.0
"""Seconds without a write that count as quiet: an unschedulable pod is told after 10."""
REST = 60.0
CONTROLLERS = (
    *("deployment-controller", "replicaset-controller", "disruption-controller", "endpointslice-controller"),
    *("garbage-collector-controller", "namespace-controller"),
)
CRD = Path(__file__).parents[2] / "crds" / "longshore.dev_modeldeployments.yaml"
SPEC: Mapping[str, Any] = {
    "model": {"uri": "https://models.example/digits.onnx"},
    "serving": {"podTemplate": {"nodeSelector": {"longshore.dev/bench": "no-node-has-this"}}},
}


@dataclass(frozen=True)
class Run:
    """One load on the operator: seconds, CPU seconds, MiB and counts."""

    models: int
    bare: float
    objects: float
    cpu: float
    peak: float
    writes: int
    reads: int
    at_rest: int
    after_restart: int

    @property
    def ratio(self) -> float:
        """Time of the operator over that of the bare client."""
        return self.objects / self.bare


def children(namespace: str, name: str) -> tuple[Mapping[str, Any], ...]:
    """Give what the operator makes for one ModelDeployment."""
    observed = Observed(
        now=time.time(),
        settings=Settings(),
        owner=Owner(namespace, name, "00000000-0000-0000-0000-000000000000"),
        generation=1,
        created=time.time(),
        deleted=None,
        finalizers=(),
        annotations={},
        spec=SPEC,
        status={},
    )
    return tuple(stamped(obj) for obj in make_plan(observed).apply)


async def bare(kube: Kube, namespace: str, count: int) -> float:
    """Apply the children of `count` ModelDeployments with a bare client; gives the seconds."""
    await kube.namespace(namespace)
    per_model = [children(namespace, f"model-{index}") for index in range(count)]
    for obj in itertools.chain.from_iterable(per_model):
        del obj["metadata"]["ownerReferences"]  # type: ignore[attr-defined]
    waiting = iter(per_model)

    async def client() -> None:
        for objects in waiting:
            for obj in objects:
                await kube.apply(kind_of(obj), obj)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    seconds = time.perf_counter() - started
    await kube.remove_namespace(namespace, _written())
    return seconds


async def _refuse_company(kube: Kube, namespace: str) -> None:
    """Two operators that work in one namespace would undo each other's status."""
    await kube.send("POST", MODEL_DEPLOYMENT.path(namespace), _model(namespace, "nobody"))
    await asyncio.sleep(3)
    found = await kube.send("GET", MODEL_DEPLOYMENT.path(namespace, "nobody"))
    await kube.send("DELETE", MODEL_DEPLOYMENT.path(namespace, "nobody"))
    if found.get("status"):
        raise RuntimeError("another operator works in this cluster: stop it, or run with --fresh")


def _model(namespace: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": SPEC,
    }


async def load(kube: Kube, namespace: str, count: int) -> float:
    """Create `count` ModelDeployments by many clients; gives the seconds until all children stand."""
    watches = [
        asyncio.ensure_future(_await_names(kube, kind.path(namespace), count * each, suffix))
        for kind, each, suffix in _expected(namespace)
    ]
    names = iter(range(count))

    async def client() -> None:
        for index in names:
            await kube.send("POST", MODEL_DEPLOYMENT.path(namespace), _model(namespace, f"model-{index}"))

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    async with asyncio.timeout(600):
        await asyncio.gather(*watches)
    return time.perf_counter() - started


async def _await_names(kube: Kube, path: str, count: int, prefix: str) -> None:
    seen: set[str] = set()
    async with contextlib.aclosing(kube.present(path)) as names:
        async for name in names:
            if name.startswith(prefix):
                seen.add(name)
            if len(seen) >= count:
                return


def _expected(namespace: str) -> list[tuple[Any, int, str]]:
    """Give the kinds that a ModelDeployment gets, with how many of each."""
    kinds = [kind_of(obj) for obj in children(namespace, "model-0")]
    return [(kind, kinds.count(kind), "model-") for kind in dict.fromkeys(kinds)]


def _written() -> list[Any]:
    return list(dict.fromkeys(kind_of(obj) for obj in children("default", "model-0")))


async def measure(kubeconfig: Path, count: int, log: Path, rest: float) -> Run:
    """Run the bare client, then the operator, then leave it at rest, then restart it."""
    async with Kube(kubeconfig) as kube:
        stamp = f"{int(time.time())}"
        bare_seconds = await bare(kube, f"bench-bare-{stamp}", count)
        namespace = f"bench-operator-{stamp}"
        await kube.namespace(namespace)
        try:
            await _refuse_company(kube, namespace)
            async with Operator(kubeconfig, namespace, log) as operator:
                objects = await operator.during(load(kube, namespace, count))
                settled = await operator.quiet(QUIET, 300)
                cpu, peak = operator.cpu_seconds(), operator.peak_mebibytes()
                await asyncio.sleep(rest)
                at_rest = (await operator.counters()).writes - settled.writes
            async with Operator(kubeconfig, namespace, log) as operator:
                restarted = await operator.quiet(QUIET, 300)
        finally:
            await kube.remove_namespace(namespace, _written())
    return Run(
        models=count,
        bare=bare_seconds,
        objects=objects,
        cpu=cpu,
        peak=peak,
        writes=settled.writes,
        reads=settled.reads,
        at_rest=at_rest,
        after_restart=restarted.writes,
    )


async def floor(kubeconfig: Path, count: int, log: Path) -> float:
    """Give the CPU seconds of a kopf that hears what the operator hears and does nothing with it."""
    async with Kube(kubeconfig) as kube:
        namespace = f"bench-floor-{int(time.time())}"
        await kube.namespace(namespace)
        try:
            async with (
                Operator(kubeconfig, namespace, log) as operator,
                Listener(kubeconfig, namespace) as ear,
            ):
                await operator.during(load(kube, namespace, count))
                await operator.quiet(QUIET, 300)
                return ear.cpu_seconds()
        finally:
            await kube.remove_namespace(namespace, _written())


async def yardstick(kubeconfig: Path, count: int) -> float:
    """Give the CPU seconds of the least operator that makes the same objects."""
    objects = children(prototype.NAMESPACE, prototype.NAME)
    async with Kube(kubeconfig) as kube:
        namespace = f"bench-prototype-{int(time.time())}"
        template = json.dumps(objects).replace(prototype.NAMESPACE, namespace)
        await kube.namespace(namespace)
        try:
            async with Listener(kubeconfig, namespace, prototype.__name__, template) as operator:
                await load(kube, namespace, count)
                return await operator.total(3.0, 120.0)
        finally:
            await kube.remove_namespace(namespace, _written())


def rows(runs: list[Run], large: list[Run], prototyped: list[float]) -> tuple[Row, ...]:
    """Give one row for every target; several runs are told by their median, writes by the worst."""
    small = f"{runs[0].models} ModelDeployments by {CLIENTS} clients"
    found = [
        Row("objects-over-bare-client", median(r.ratio for r in runs), "ratio", "<=", 2.5, small),
        Row(
            "operator-cpu",
            median(r.cpu for r in runs),
            "s",
            "<=",
            CPU_SECONDS,
            "start of the process to quiet",
        ),
        Row(
            "operator-cpu-over-prototype",
            median(r.cpu / seconds for r, seconds in zip(runs, prototyped, strict=True)),
            "ratio",
            "<=",
            round(CPU_SECONDS / PROTOTYPE_SECONDS, 2),
            f"{CPU_SECONDS:g} s over the {PROTOTYPE_SECONDS:g} s that it took where the target was set",
        ),
        Row("writes-until-quiet", max(r.writes / r.models for r in runs), "per ModelDeployment", "<=", 8.0),
        Row("writes-at-rest", max(r.at_rest for r in runs), "writes", "==", 0, f"{REST:.0f} s, Lease apart"),
        Row("writes-after-restart", max(r.after_restart for r in runs), "writes", "==", 0, "Lease apart"),
        Row("operator-peak-memory", max(r.peak for r in runs), "MiB", "<=", 100.0),
    ]
    growth = median(r.objects for r in large) / median(r.objects for r in runs) if large else None
    factor = large[0].models / runs[0].models if large else 5.0
    largest = large[0].models if large else 1000
    worst = max((max(r.at_rest, r.after_restart) for r in large), default=None)
    per_model = max((r.writes / r.models for r in large), default=None)
    ratio = max((r.ratio for r in large), default=None)
    busy, peak = max((r.cpu for r in large), default=None), max((r.peak for r in large), default=None)
    return (
        *found,
        Row("time-growth", growth, "ratio", "<=", factor, f"{largest} over {runs[0].models}"),
        Row("objects-over-bare-client-large", ratio, "ratio", "<=", 2.5, f"{largest}"),
        Row("operator-cpu-large", busy, "s", "<=", CPU_SECONDS * factor, f"{largest}, as the count grows"),
        Row("operator-peak-memory-large", peak, "MiB", "<=", 100.0, f"{largest}"),
        Row("writes-until-quiet-large", per_model, "per ModelDeployment", "<=", 8.0, f"{largest}"),
        Row("writes-at-rest-and-restart-large", worst, "writes", "==", 0, f"{largest}"),
    )


@contextlib.contextmanager
def target(kubeconfig: str | None, fresh: bool) -> Iterator[tuple[Path, str]]:
    """Give the kubeconfig to work with: the one named, else the local cluster's, else an API server's."""
    local = NodePaths().kubeconfig
    if kubeconfig and not fresh:
        yield Path(kubeconfig), "the cluster of KUBECONFIG"
    elif local.exists() and not fresh:
        yield local, "the local one-node cluster"
    else:
        with (
            tempfile.TemporaryDirectory() as folder,
            apiserver.start(Path(folder), controllers=CONTROLLERS) as server,
        ):
            yield server.kubeconfig, "an API server with controllers, without kubelet"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", default=os.environ.get("KUBECONFIG"))
    parser.add_argument("--fresh", action="store_true", help="start an API server with controllers")
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--large", type=int, default=1000, help="0 leaves the large run out")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--rest", type=float, default=REST)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "bench-reconcile.log")
    parser.add_argument("--no-write", action="store_true", help="print only")
    given = parser.parse_args()
    with target(given.kubeconfig, given.fresh) as (kubeconfig, where):
        asyncio.run(_install(kubeconfig))

        def run(count: int, rest: float) -> Run:
            return _show(asyncio.run(measure(kubeconfig, count, given.log, rest)))

        runs, prototyped = [], []
        for turn in range(given.repeats):
            # In turns, so that a busy spell of the machine hits both.
            runs.append(run(given.models, given.rest if turn == 0 else 0))
            prototyped.append(asyncio.run(yardstick(kubeconfig, given.models)))
        heard = asyncio.run(floor(kubeconfig, given.models, given.log))
        large = [run(given.large, given.rest)] if given.large else []
    report = Report(
        "reconcile",
        rows(runs, large, prototyped),
        {
            "cluster": where,
            "versions": versions(["kopf", "kubernetes", "aiohttp", "pydantic", "uvloop"]),
            "kopfAloneCpuSeconds": round(heard, 2),
            "prototypeCpuSeconds": [round(seconds, 2) for seconds in prototyped],
            "runs": [_figures(run) for run in (*runs, *large)],
            "revision": revision_of(parse_spec(SPEC)),
        },
        (
            f"{given.models} ModelDeployments without `optimize` are created by {CLIENTS} clients at once; "
            "a node selector keeps every pod Pending. The bare client applies the same objects just before, "
            "with as many clients. Times run from the first create until the last object stands. "
            f"kopf alone, with a handler that does nothing, takes {heard:.2f} s of CPU for the events of all "
            "kinds; so it hears of ModelDeployments, and watches of Longshore's own hear of their children. "
            "The prototype is the least operator that makes the same objects (bench/reconcile/prototype.py).",
        ),
    )
    report.print()
    if not given.no_write:
        print(report.write(), file=sys.stderr)


async def _install(kubeconfig: Path) -> None:
    import yaml

    crd = yaml.safe_load(CRD.read_text())
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
    async with Kube(kubeconfig) as kube:
        query = "?fieldManager=bench&force=true"
        await kube.send("PATCH", path + query, crd, "application/apply-patch+yaml")
        async with asyncio.timeout(30):
            while True:
                conditions = (await kube.send("GET", path)).get("status", {}).get("conditions") or ()
                if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
                    return
                await asyncio.sleep(0.1)


def _figures(run: Run) -> dict[str, float]:
    return {
        "models": run.models,
        "bareSeconds": round(run.bare, 2),
        "objectsSeconds": round(run.objects, 2),
        "cpuSeconds": round(run.cpu, 2),
        "peakMiB": round(run.peak, 1),
        "writes": run.writes,
        "reads": run.reads,
    }


def _show(run: Run) -> Run:
    print(_figures(run), file=sys.stderr, flush=True)
    return run


if __name__ == "__main__":
    main()
