"""The operator against a real API server, one reconcile at a time; the test plays the controllers."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from longshore.cluster import Cluster, ClusterError
from longshore.index import Index
from longshore.lists import list_all
from longshore.metrics import Metrics
from longshore.observe import observe
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.rollout.model import PreflightView
from longshore.plan.state import Observed
from longshore.reconcile import Reconciler
from longshore.resources.kinds import Kind
from longshore.resources.names import Owner, mirror_key
from longshore.senses import Senses
from longshore.settings import Settings

from tests.kube import Kube, Object, models_path


class KilledError(BaseException):
    """The operator's process ended here."""


class Faults:
    """What goes wrong with writes: the process ends before write `kill_at`, counted from 0, or it fails."""

    def __init__(self, kill_at: int | None = None, answers: Mapping[int, ClusterError] | None = None) -> None:
        self.kill_at = kill_at
        self.answers = dict(answers or {})
        self.attempts = 0
        self.writes: list[str] = []
        """Writes that were done."""

    async def around(self, what: str, send: Any) -> Any:
        """Send one write, or not."""
        number = self.attempts
        if self.kill_at is not None and number >= self.kill_at:
            raise KilledError
        self.attempts += 1
        fault = self.answers.get(number)
        if fault is not None and fault.reason != "AnswerLost":
            raise fault
        answer = await send
        self.writes.append(what)
        if fault is not None:
            raise fault
        return answer


class FaultyCluster(Cluster):
    """A connection whose writes may fail or end the process."""

    faults: Faults

    async def _request(self, kind: Kind, method: str, path: str, *more: Any, **named: Any) -> dict[str, Any]:
        send = super()._request(kind, method, path, *more, **named)
        if method == "GET":
            return await send
        try:
            answer: dict[str, Any] = await self.faults.around(f"{method} {path}", send)
        finally:
            send.close()
        return answer


class Driver:
    """One operator and one namespace; `restart` is another process with nothing but the cluster."""

    def __init__(self, kube: Kube, namespace: str, settings: Settings | None = None) -> None:
        self.kube = kube
        self.namespace = kube.namespace(namespace)
        self.settings = (settings or Settings()).model_copy(update={"namespaces": (self.namespace,)})
        self.ahead = 0.0
        """Seconds by which the operator's clock is ahead: waiting costs no time here."""

    async def __aenter__(self) -> Self:
        self.faults = Faults()
        await self.restart()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cluster.__aexit__(None, None, None)

    async def restart(self, faults: Faults | None = None) -> None:
        """Begin anew."""
        if hasattr(self, "cluster"):
            await self.cluster.__aexit__(None, None, None)
        self.faults = faults or Faults()
        self.cluster = await FaultyCluster.connect(str(self.kube.server.kubeconfig))
        self.cluster.faults = self.faults
        self.index, self.senses, self.metrics = Index(), Senses(), Metrics()
        self.reconciler = Reconciler(
            self.cluster,
            self.index,
            self.senses,
            self.settings,
            self.metrics,
            examine=self._examine,
            clock=lambda: time.time() + self.ahead,
        )

    def _examine(self, observed: Observed, revision: str) -> None:
        key = (observed.owner.namespace, observed.owner.name)
        self.senses.preflight[key] = PreflightView(revision, Verdict.NO_DATA, "nothing is recorded")

    async def reconcile(self, name: str = "digits") -> float | None:
        """Read everything, then reconcile one model."""
        await list_all(self.cluster, self.index, self.settings)
        return await self.reconciler((self.namespace, name))

    async def settle(self, name: str = "digits", patience: float = 12.0, most: int = 120) -> list[str]:
        """Reconcile until nothing is written for `patience` seconds of its clock; gives the writes."""
        first, quiet = len(self.faults.writes), 0.0
        for _ in range(most):
            before = len(self.faults.writes)
            try:
                again = await self.reconcile(name)
            except ClusterError:
                again = 0.2
            worked = self.work()
            if len(self.faults.writes) > before or worked:
                quiet = 0.0
            elif again is None or quiet >= patience:
                return self.faults.writes[first:]
            step = min(again, 2.0) if again is not None else 0.1
            quiet += step
            self.ahead += step
        raise AssertionError(f"still writing: {self.faults.writes[-6:]}")

    def observed(self, name: str = "digits") -> Observed:
        """Give what the last reconcile rested on."""
        found = observe(
            self.index, (self.namespace, name), self.settings, time.time() + self.ahead, self.senses
        )
        assert found is not None
        return found

    # --- the controllers

    def work(self) -> bool:
        """Do what the Deployment controller and the kubelet would; tells whether there was anything."""
        moved = False
        for obj in self.items("apps/v1", "deployments"):
            moved |= self._deploy(obj)
        return moved

    def _deploy(self, obj: Object) -> bool:
        name, wanted = obj["metadata"]["name"], obj["spec"]["replicas"]
        pods = {p["metadata"]["name"]: p for p in self.items("v1", "pods")}
        own = {n for n in pods if n.startswith(f"{name}-") and n[len(name) + 1 :].isdigit()}
        needed = {f"{name}-{index}" for index in range(wanted)}
        for pod in needed - own:
            self.pod(pod, obj["spec"]["template"]["metadata"]["labels"], ready=True)
        for pod in own - needed:
            self.kube.call(
                "DELETE",
                f"/api/v1/namespaces/{self.namespace}/pods/{pod}?gracePeriodSeconds=0&propagationPolicy=Background",
            )
        status = {
            "observedGeneration": obj["metadata"]["generation"],
            "replicas": wanted,
            "readyReplicas": wanted,
            "availableReplicas": wanted,
            "updatedReplicas": wanted,
        }
        known = obj.get("status", {})
        if own == needed and all(known.get(key, 0) == value for key, value in status.items()):
            return False
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}/status"
        self.kube.merge(path, {"status": status})
        return True

    def pod(
        self, name: str, labels: Mapping[str, str], ready: bool, status: Mapping[str, Any] | None = None
    ) -> None:
        """Make a pod with a status."""
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        self.kube.create(
            path,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": dict(labels)},
                "spec": {
                    "containers": [{"name": "server", "image": "none"}],
                    "automountServiceAccountToken": False,
                },
            },
        )
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": moment}
        self.kube.merge(
            f"{path}/{name}/status",
            {"status": {"phase": "Running", "conditions": [condition], **(status or {})}},
        )

    def end_job(self, report: Mapping[str, Any]) -> None:
        """End the latest Job with a report."""
        job = max(self.items("batch/v1", "jobs"), key=lambda o: o["metadata"]["creationTimestamp"])
        name = job["metadata"]["name"]
        labels = {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
        ended = {"exitCode": 0, "reason": "Completed", "message": json.dumps(report)}
        container = {
            "name": "server",
            "image": "none",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": ended},
        }
        self.pod(f"{name}-pod", labels, False, {"phase": "Succeeded", "containerStatuses": [container]})
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": moment, "lastProbeTime": moment}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}/status"
        self.kube.merge(
            path,
            {
                "status": {
                    "conditions": conditions,
                    "startTime": moment,
                    "completionTime": moment,
                    "succeeded": 1,
                    "uncountedTerminatedPods": {},
                }
            },
        )

    # --- what stands

    def items(self, version: str, plural: str) -> list[Object]:
        """List the objects of a kind."""
        base = "/api/v1" if version == "v1" else f"/apis/{version}"
        return self.kube.items(f"{base}/namespaces/{self.namespace}/{plural}")

    def root(self, name: str = "digits") -> Object:
        """Read the ModelDeployment."""
        found = self.kube.get(models_path(self.namespace, name))
        assert found is not None
        return found

    def condition(self, kind: str, name: str = "digits") -> Object:
        """Find a condition of the ModelDeployment."""
        conditions = self.root(name).get("status", {}).get("conditions", ())
        return next((c for c in conditions if c["type"] == kind), {})

    def end_state(self) -> dict[str, Object]:
        """Give all that stands, without what differs from run to run."""
        found: dict[str, Object] = {}
        for version, plural in KINDS:
            for obj in self.items(version, plural):
                found[f"{plural}/{obj['metadata']['name']}"] = _bare(obj)
        return found

    def clear(self) -> None:
        """Remove everything from the namespace; nobody collects garbage here."""
        for version, plural in (*KINDS, ("v1", "pods"), ("v1", "events")):
            base = "/api/v1" if version == "v1" else f"/apis/{version}"
            path = f"{base}/namespaces/{self.namespace}/{plural}"
            for obj in self.items(version, plural):
                if obj["metadata"].get("finalizers"):
                    self.kube.merge(f"{path}/{obj['metadata']['name']}", {"metadata": {"finalizers": None}})
                self.kube.call(
                    "DELETE",
                    f"{path}/{obj['metadata']['name']}?gracePeriodSeconds=0&propagationPolicy=Background",
                )


KINDS = (
    ("longshore.dev/v1alpha1", "modeldeployments"),
    ("v1", "services"),
    ("v1", "serviceaccounts"),
    ("apps/v1", "deployments"),
    ("batch/v1", "jobs"),
    ("policy/v1", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "networkpolicies"),
)


def _bare(obj: Object) -> Object:
    metadata = obj["metadata"]
    notes = {k: v for k, v in metadata.get("annotations", {}).items() if k != "longshore.dev/applied"}
    spec = {k: v for k, v in obj.get("spec", {}).items() if not k.startswith("clusterIP")}
    if "template" in spec:
        spec["template"] = {**spec["template"], "metadata": dict(spec["template"]["metadata"])}
        for name in ("controller-uid", "batch.kubernetes.io/controller-uid"):
            spec["template"]["metadata"]["labels"] = {
                k: v for k, v in spec["template"]["metadata"].get("labels", {}).items() if k != name
            }
    if "selector" in spec and obj["metadata"]["labels"].get("app.kubernetes.io/component") == "optimizer":
        del spec["selector"]
    bare: Object = {"labels": metadata.get("labels", {}), "annotations": notes, "spec": spec}
    for reference in metadata.get("ownerReferences", ()):
        # Each life has a uid of its own, and what comes from it.
        key = mirror_key(Owner(metadata["namespace"], reference["name"], reference["uid"]))
        bare = json.loads(json.dumps(bare).replace(key, "mirror-key"))
    return bare
