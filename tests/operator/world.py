"""A small cluster in memory: what the API server keeps and what the controllers would do, as pure data.

It takes the place of `longshore.cluster.Cluster` under the real index, observation, plan, apply and status,
so that tables and properties over thousands of states stay fast. The real API server has tests of its own.
"""

import copy
import json
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from longshore.cluster import ClusterError
from longshore.index import Index
from longshore.metrics import Metrics
from longshore.observe import observe
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.outcome import Plan
from longshore.plan.pipeline import make_plan
from longshore.plan.rollout.model import PreflightView
from longshore.plan.state import Observed
from longshore.reconcile import Reconciler
from longshore.resources.kinds import CHILDREN, EVENT, MODEL_DEPLOYMENT, POD, Kind, kind_of
from longshore.senses import Senses
from longshore.settings import Settings

from tests.operator.merging import forget, merge, merge_patch
from tests.operator.shelf import Shelf

T = TypeVar("T")
Object = dict[str, Any]
START = 1_767_225_600.0
"""2026-01-01 in seconds since the epoch."""

SPEC: Mapping[str, Any] = {"model": {"uri": "https://models.example/digits.onnx"}}


def is_aside(obj: Mapping[str, Any]) -> bool:
    """Tell whether an object is of warm copies or measures runtimes: no Service selects its pods."""
    return obj["metadata"].get("labels", {}).get("app.kubernetes.io/component") in ("warm", "measure")


class KilledError(BaseException):
    """The operator's process ended here."""


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("the coroutine waited for something")


def rfc3339(moment: float) -> str:
    """Give a moment as Kubernetes writes it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class World:
    """One ModelDeployment, the objects around it, a clock, and an operator that may be killed."""

    def __init__(
        self,
        spec: Mapping[str, Any] = SPEC,
        settings: Settings | None = None,
        name: str = "digits",
        now: float = START,
    ) -> None:
        self.settings = settings or Settings()
        self.now = now
        self.namespace, self.name = "team", name
        self.objects: dict[tuple[str, str], Object] = {}
        self.events: list[Object] = []
        self.writes: list[str] = []
        self.broken: set[str] = set()
        """Revisions whose pods never get ready, and Deployments of such warm copies."""
        self.gateway_api = False
        self.accepts: set[str] | None = None
        """Kinds of routes that the gateway takes at once; None: there is no gateway."""
        self.shelf = Shelf(lambda what: _Write(self, what))
        self.node_is_lost = False
        """Pods that shall end do not."""
        self.notify: Callable[..., None] = lambda owner, pending, urls: None
        self.kill_at: int | None = None
        """Number of the write, counted from 0, before which the operator ends."""
        self._applied: dict[tuple[str, str], Object] = {}
        self._version = 0
        self.root = self._stored(
            {
                "apiVersion": MODEL_DEPLOYMENT.api_version,
                "kind": MODEL_DEPLOYMENT.kind,
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": copy.deepcopy(dict(spec)),
            }
        )
        self.restart()

    # --- the operator

    def restart(self) -> None:
        """Start the operator anew, with nothing but the cluster to remember by."""
        self.index, self.senses, self.metrics = Index(), Senses(), Metrics()
        self._heard = -1
        self.reconciler = Reconciler(
            self,  # type: ignore[arg-type]  # stands in for Cluster
            self.index,
            self.senses,
            self.settings,
            self.metrics,
            examine=self._examine,
            notify=self._tell,
            store=self.shelf,
            clock=lambda: self.now,
        )
        self.hear()

    def _tell(self, *what: Any) -> None:
        self.notify(*what)

    def _examine(self, observed: Observed, revision: str) -> None:
        """Nothing was recorded, so a new revision is asked nothing."""
        found = PreflightView(revision, Verdict.NO_DATA, "nothing is recorded")
        self.senses.preflight[self.namespace, self.name] = found

    def hear(self) -> None:
        """Deliver everything to the operator's index, as a full list would."""
        self.index.installed = {"HTTPRoute", "GRPCRoute"} if self.gateway_api else set()
        if self._heard == self._version:
            return
        self._heard = self._version
        kinds: dict[Kind, list[Mapping[str, Any]]] = {}
        for obj in self.objects.values():
            if kind_of(obj) is not MODEL_DEPLOYMENT:
                kinds.setdefault(kind_of(obj), []).append(copy.deepcopy(obj))
        for kind in (*CHILDREN, POD):
            self.index.replace(kind, kinds.get(kind, []), self._version)
        roots: list[Mapping[str, Any]] = [
            copy.deepcopy(obj) for key, obj in self.objects.items() if key[0] == MODEL_DEPLOYMENT.kind
        ]
        self.index.replace(MODEL_DEPLOYMENT, roots, self._version)

    def observed(self) -> Observed:
        """Give what a plan would rest on now."""
        self.hear()
        found = observe(self.index, (self.namespace, self.name), self.settings, self.now, self.senses)
        assert found is not None
        return found

    def plan(self) -> Plan:
        """Plan without applying."""
        return make_plan(self.observed())

    def reconcile(self) -> float | None:
        """Hear, then reconcile once; gives the seconds after which the operator wants to come back."""
        self.hear()
        return finish(self.reconciler((self.namespace, self.name)))

    def settle(self, patience: float = 12.0, most: int = 200) -> list[str]:
        """Reconcile, with the controllers at work between, until nothing is written for `patience` seconds.

        Gives the writes.
        """
        first, quiet_since = len(self.writes), self.now
        for _ in range(most):
            before = len(self.writes)
            again = self.reconcile()
            worked = self.changed()
            if len(self.writes) > before or worked:
                quiet_since = self.now
            elif again is None or self.now - quiet_since >= patience:
                return self.writes[first:]
            self.now += min(again, 2.0) if again else 0.1
        raise AssertionError(f"still writing after {most} reconciles: {self.writes[-6:]}")

    def changed(self) -> bool:
        """Tell whether the controllers have more to do."""
        before = self._version
        self.work()
        return self._version != before

    # --- what people and controllers do

    def edit(self, **parts: Any) -> None:
        """Change parts of the spec; None removes one."""
        spec = {**self.root["spec"], **parts}
        self.root["spec"] = {key: value for key, value in spec.items() if value is not None}
        self.root["metadata"]["generation"] += 1
        self._touch(self.root)

    def annotate(self, **notes: str | None) -> None:
        """Set annotations of the ModelDeployment, written `longshore_dev_retry` for longshore.dev/retry."""
        for name, value in notes.items():
            place = self.root["metadata"].setdefault("annotations", {})
            key = name.replace("longshore_dev_", "longshore.dev/")
            if value is None:
                place.pop(key, None)
            else:
                place[key] = value
        self._touch(self.root)

    def work(self) -> None:
        """Let the Deployment controller and the kubelet do all that they would."""
        for (kind, name), obj in list(self.objects.items()):
            if kind == "Deployment":
                self._deploy(name, obj)
            if kind in ("HTTPRoute", "GRPCRoute") and self.accepts is not None:
                self._attach(obj, kind in self.accepts)

    def _attach(self, obj: Object, accepted: bool) -> None:
        """The gateway answers for every parent of a route."""
        condition = {
            "type": "Accepted",
            "status": str(accepted),
            "reason": "Accepted" if accepted else "NotAllowedByListeners",
            "message": "" if accepted else "no listener allows this kind",
            "observedGeneration": obj["metadata"]["generation"],
        }
        parents = [
            {"parentRef": parent, "conditions": [condition]} for parent in obj["spec"].get("parentRefs", ())
        ]
        if obj.get("status") != {"parents": parents}:
            obj["status"] = {"parents": parents}
            self._touch(obj)

    def _deploy(self, name: str, obj: Object) -> None:
        revision = obj["metadata"]["labels"]["longshore.dev/revision"]
        ready = (name if is_aside(obj) else revision) not in self.broken
        wanted = obj["spec"]["replicas"]
        for index in range(wanted):
            pod_name = f"{name}-{index}"
            pod = self.objects.get(("Pod", pod_name))
            if pod is None or ready != self._is_ready(pod):
                labels = obj["spec"]["template"]["metadata"]["labels"]
                self.pod(pod_name, labels, ready, {"podIP": f"10.0.1.{index}"} if is_aside(obj) else None)
        for kind, pod_name in list(self.objects):
            if (
                kind == "Pod"
                and pod_name.rpartition("-")[0] == name
                and int(pod_name.rpartition("-")[2]) >= wanted
            ):
                self.vanish("Pod", pod_name)
        status = {
            "observedGeneration": obj["metadata"]["generation"],
            "replicas": wanted,
            "readyReplicas": wanted if ready else 0,
            "availableReplicas": wanted if ready else 0,
        }
        if obj.get("status") != status:
            obj["status"] = status
            self._touch(obj)

    @staticmethod
    def _is_ready(pod: Object) -> bool:
        return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])

    def pod(
        self,
        name: str,
        labels: Mapping[str, str],
        ready: bool = False,
        status: Mapping[str, Any] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Object:
        """Make or replace a pod."""
        self.objects.pop(("Pod", name), None)
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": rfc3339(self.now)}
        return self._stored(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": self.namespace,
                    "labels": dict(labels),
                    "annotations": dict(annotations or {}),
                },
                "status": {
                    "phase": "Running",
                    "podIP": "10.0.0.1",
                    "conditions": [condition],
                    **(status or {}),
                },
            }
        )

    def jobs(self) -> list[Object]:
        """Give the Jobs, the oldest attempt first."""
        return sorted(
            (o for (k, _), o in self.objects.items() if k == "Job"), key=lambda o: o["metadata"]["name"]
        )

    def end_job(
        self,
        report: Mapping[str, Any] | str | None,
        failed: bool = False,
        reason: str = "Completed",
        pod: bool = True,
        **pod_status: Any,
    ) -> None:
        """End the latest Job; its pod says `report` in its termination message."""
        job = self.jobs()[-1]
        condition = {"type": "Complete", "status": "True", "lastTransitionTime": rfc3339(self.now)}
        if failed:
            condition |= {"type": "Failed", "reason": "PodFailurePolicy", "message": "Pod failed"}
        job["status"] = {"conditions": [condition]}
        self._touch(job)
        if pod:
            message = report if isinstance(report, str) else json.dumps(report) if report else ""
            ended = {"exitCode": int(failed), "reason": reason, "message": message}
            status = {
                "phase": "Failed" if failed else "Succeeded",
                "containerStatuses": [{"name": "optimizer", "state": {"terminated": ended}}],
                **pod_status,
            }
            name = job["metadata"]["name"]
            labels = {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
            self.pod(f"{name}-pod", labels, status=status)

    def vanish(self, kind: str, name: str) -> None:
        """Remove an object at once."""
        self.objects.pop((kind, name), None)
        self._applied.pop((kind, name), None)
        self._version += 1

    def delete_root(self) -> None:
        """Ask for the ModelDeployment's deletion, as kubectl does."""
        if self.root["metadata"].get("finalizers"):
            self.root["metadata"]["deletionTimestamp"] = rfc3339(self.now)
            self._touch(self.root)
        else:
            self._collect()

    def _collect(self) -> None:
        """The garbage collector: everything goes with its owner."""
        self.objects.clear()
        self._version += 1

    # --- what the operator sees of the API server

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """As `Cluster.get`."""
        return copy.deepcopy(self.objects.get((kind.kind, name)))

    async def apply(
        self, kind: Kind, obj: Mapping[str, Any], subresource: str = "", force: bool = True
    ) -> Object:
        """As `Cluster.apply`: what was applied before and is not any more goes, what others wrote stays."""
        name = obj["metadata"]["name"]
        place = (kind.kind, name)
        with _Write(self, f"apply {kind.kind}/{name}" + (f"/{subresource}" if subresource else "")):
            if subresource:
                standing = self.objects.get(place)
                if standing is None or standing["metadata"]["uid"] != obj["metadata"].get("uid"):
                    raise ClusterError(404 if standing is None else 409, "Conflict", "it is gone")
                json.dumps(obj["status"], allow_nan=False)
                standing[subresource] = copy.deepcopy(obj[subresource])
                self._touch(standing)
                return copy.deepcopy(standing)
            wanted = copy.deepcopy(dict(obj))
            known = self.objects.get(place)
            if known is None:
                self._applied[place] = copy.deepcopy(wanted)
                return copy.deepcopy(self._stored(wanted))
            before = copy.deepcopy(known)
            forget(known, self._applied.get(place, {}), wanted)
            merge(known, wanted)
            self._applied[place] = copy.deepcopy(wanted)
            if known != before:
                known["metadata"]["generation"] += known.get("spec") != before.get("spec")
                self._touch(known)
            return copy.deepcopy(known)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """As `Cluster.merge`."""
        with _Write(self, f"merge {kind.kind}/{name}"):
            standing = self.objects.get((kind.kind, name))
            if standing is None:
                raise ClusterError(404, "NotFound", "it is gone")
            expected = patch["metadata"].get("resourceVersion")
            if expected is not None and expected != standing["metadata"]["resourceVersion"]:
                raise ClusterError(409, "Conflict", "the object has been modified")
            merge_patch(standing, copy.deepcopy(dict(patch)))
            self._touch(standing)
            result = copy.deepcopy(standing)
            if standing["metadata"].get("deletionTimestamp") and not standing["metadata"].get("finalizers"):
                self._collect()
            return result

    async def create(self, kind: Kind, obj: Mapping[str, Any]) -> Object:
        """As `Cluster.create`; only events are made so."""
        assert kind is EVENT
        name = obj["metadata"]["name"]
        with _Write(self, f"create Event/{obj['reason']}"):
            if any(event["metadata"]["name"] == name for event in self.events):
                raise ClusterError(409, "AlreadyExists", "it exists")
            self.events.append(copy.deepcopy(dict(obj)))
            return dict(obj)

    async def delete(
        self, kind: Kind, namespace: str, name: str, uid: str, propagation: str = "Background"
    ) -> None:
        """As `Cluster.delete`."""
        with _Write(self, f"delete {kind.kind}/{name}"):
            standing = self.objects.get((kind.kind, name))
            if standing is None or standing["metadata"]["uid"] != uid:
                return
            for other, pod in list(self.objects):
                if other == "Pod" and pod.rpartition("-")[0] == name and not self.node_is_lost:
                    self.vanish(other, pod)
            self.vanish(kind.kind, name)

    def _stored(self, obj: Object) -> Object:
        self._version += 1
        metadata = obj["metadata"]
        metadata |= {
            "uid": f"uid-{self._version}",
            "generation": 1,
            "creationTimestamp": rfc3339(self.now),
            "resourceVersion": str(self._version),
        }
        self.objects[obj["kind"], metadata["name"]] = obj
        return obj

    def _touch(self, obj: Object) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)

    # --- what a person sees

    @property
    def status(self) -> Object:
        """Status of the ModelDeployment."""
        found: Object = self.root.get("status", {})
        return found

    def condition(self, kind: str) -> Object:
        """Find a condition."""
        return next((c for c in self.status.get("conditions", ()) if c["type"] == kind), {})

    def names(self, kind: str) -> list[str]:
        """Give the names of the objects of a kind."""
        return sorted(name for known, name in self.objects if known == kind)

    def replicas(self) -> dict[str, int]:
        """Give the wanted pods by revision."""
        return {
            obj["metadata"]["labels"]["longshore.dev/revision"]: obj["spec"]["replicas"]
            for (kind, _), obj in self.objects.items()
            if kind == "Deployment" and not is_aside(obj)
        }

    def selected(self) -> str | None:
        """Give the revision that the Service selects."""
        service = self.objects.get(("Service", self.name), {"spec": {}})
        found: str | None = service["spec"].get("selector", {}).get("longshore.dev/revision")
        return found

    def told(self) -> list[str]:
        """Give the reasons of the recorded events."""
        return [event["reason"] for event in self.events]

    def end_state(self) -> Object:
        """Give everything that stands, without what differs from run to run."""
        return {f"{kind}/{name}": _bare(obj) for (kind, name), obj in sorted(self.objects.items())}


class _Write:
    """One write: counted, and the place where the operator may be killed."""

    def __init__(self, world: World, what: str) -> None:
        self._world = world
        self._what = what

    def __enter__(self) -> None:
        number = len(self._world.writes)
        if self._world.kill_at is not None and number >= self._world.kill_at:
            raise KilledError
        self._world.writes.append(self._what)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Nothing is left to do."""


def _bare(obj: Object) -> Object:
    volatile = {"uid", "resourceVersion", "generation", "creationTimestamp", "ownerReferences"}
    metadata = {k: v for k, v in obj["metadata"].items() if k not in volatile}
    metadata["annotations"] = {
        k: v for k, v in metadata.get("annotations", {}).items() if k != "longshore.dev/applied"
    }
    bare = {k: v for k, v in obj.items() if k not in ("metadata", "status")}
    return {**bare, "metadata": metadata}
