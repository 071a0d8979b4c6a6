"""What the watches have told: objects by ModelDeployment, ready to be observed without a request."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from longshore.plan.state import RouteClaim
from longshore.resources.kinds import (
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    MODEL_DEPLOYMENT,
    POD,
    Kind,
    kind_of,
)
from longshore.resources.names import NAME, model_of_deployment

Key = tuple[str, str]
"""Namespace and name of a ModelDeployment."""

_GRAVES = 4096


class Index:
    """Objects as last seen, newest version only.

    A write's answer goes in at once, and an event older than it is dropped: a decision never rests on what
    was true before Longshore's own last write.
    """

    def __init__(self) -> None:
        self._roots: dict[Key, Mapping[str, Any]] = {}
        self._children: dict[Key, dict[tuple[str, str], Mapping[str, Any]]] = defaultdict(dict)
        self._gone: dict[str, None] = {}
        self.standing: dict[str, tuple[str, str]] = {}
        """By uid: the version that was found to stand as wanted, and the hash of what was wanted."""
        self.claims: dict[Key, tuple[tuple[str, int], RouteClaim | None]] = {}
        """What each ModelDeployment's route claims, with the uid and generation it was read from."""
        self.pressing: set[Key] = set()
        """Keys whose last news somebody waits for: a pod answers, a Job ended, an object is new or gone."""
        self.installed: set[str] = set()
        """Kinds of others that this cluster has."""

    def put(self, obj: Mapping[str, Any]) -> Key | None:
        """Take in an object; gives the key to reconcile, or None when it is no news."""
        kind = kind_of(obj)
        key = key_of(kind, obj)
        if key is None:
            return None
        known = self._roots.get(key) if kind is MODEL_DEPLOYMENT else self._children[key].get(_place(obj))
        version = _version(obj)
        if known is not None and _version(known) >= version:
            return None
        if obj["metadata"]["uid"] in self._gone:
            return None
        slim = _slim(obj)
        if kind is MODEL_DEPLOYMENT:
            self._roots[key] = slim
        else:
            self._children[key][_place(obj)] = slim
        if known is not None and _same(known, slim):
            return None
        if known is None or _pressing(known) != _pressing(slim):
            self.pressing.add(key)
        return key

    def remove(self, obj: Mapping[str, Any]) -> Key | None:
        """Forget a deleted object; gives the key to reconcile."""
        kind = kind_of(obj)
        key = key_of(kind, obj)
        if key is None:
            return None
        uid = obj["metadata"]["uid"]
        self._bury(uid)
        self.pressing.add(key)
        if kind is MODEL_DEPLOYMENT:
            known = self._roots.get(key)
            if known is not None and known["metadata"]["uid"] == uid:
                del self._roots[key]
                self.claims.pop(key, None)
                if not self._children.get(key):
                    self._children.pop(key, None)
            return key
        known = self._children[key].get(_place(obj))
        if known is not None and known["metadata"]["uid"] == uid:
            del self._children[key][_place(obj)]
            if not self._children[key] and key not in self._roots:
                del self._children[key]
        return key

    def forget(self, kind: Kind, key: Key, name: str) -> None:
        """Forget a child that is known not to exist."""
        self._children.get(key, {}).pop((kind.kind, name), None)

    def replace(
        self, kind: Kind, objects: list[Mapping[str, Any]], version: int, namespace: str | None = None
    ) -> set[Key]:
        """Take in a full list of a kind, in a namespace or in all of them; gives the keys that changed.

        What is not in it is gone, unless it is newer than `version`, that of the list: the operator itself
        may have written while the list was under way.
        """
        changed: set[Key] = set()
        seen: set[str] = set()
        for obj in objects:
            seen.add(obj["metadata"]["uid"])
            key = self.put(obj)
            if key is not None:
                changed.add(key)
        for key, obj in list(self._of_kind(kind)):
            here = namespace is None or key[0] == namespace
            if here and obj["metadata"]["uid"] not in seen and _version(obj) <= version:
                self.remove({**obj, "apiVersion": kind.api_version, "kind": kind.kind})
                changed.add(key)
        return changed

    def root(self, key: Key) -> Mapping[str, Any] | None:
        """Give the ModelDeployment."""
        return self._roots.get(key)

    def roots(self) -> Iterator[tuple[Key, Mapping[str, Any]]]:
        """Give every ModelDeployment."""
        yield from self._roots.items()

    @property
    def count(self) -> int:
        """Number of ModelDeployments."""
        return len(self._roots)

    def children(self, key: Key) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """Give what belongs to a ModelDeployment, by kind and name."""
        return self._children.get(key, {})

    def _bury(self, uid: str) -> None:
        """Remember what was deleted last: a write's answer may come after the event of the deletion."""
        self._gone[uid] = None
        self.standing.pop(uid, None)
        while len(self._gone) > _GRAVES:
            del self._gone[next(iter(self._gone))]

    def _of_kind(self, kind: Kind) -> Iterator[tuple[Key, Mapping[str, Any]]]:
        if kind is MODEL_DEPLOYMENT:
            yield from self._roots.items()
            return
        for key, children in self._children.items():
            for (name, _), obj in children.items():
                if name == kind.kind:
                    yield key, obj


def key_of(kind: Kind, obj: Mapping[str, Any]) -> Key | None:
    """Find the ModelDeployment that an object belongs to; None when it is nobody's."""
    metadata = obj["metadata"]
    name = metadata["name"] if kind is MODEL_DEPLOYMENT else metadata.get("labels", {}).get(NAME)
    if name is None and kind is HORIZONTAL_POD_AUTOSCALER:
        target = obj.get("spec", {}).get("scaleTargetRef", {})
        name = target.get("name", "")
        if target.get("kind") != MODEL_DEPLOYMENT.kind:
            name = model_of_deployment(name) if target.get("kind") == DEPLOYMENT.kind else ""
    return (metadata["namespace"], name) if name else None


def _place(obj: Mapping[str, Any]) -> tuple[str, str]:
    return obj["kind"], obj["metadata"]["name"]


def _version(obj: Mapping[str, Any]) -> int:
    # Comparable as integers since Kubernetes 1.35 ("Comparable resource versions", KEP-5504).
    return int(obj["metadata"].get("resourceVersion", 0))


_CONDITION = ("type", "status", "reason", "message")
_STATUS: Mapping[str, tuple[str, ...]] = {
    "Deployment": ("observedGeneration", "replicas", "readyReplicas", "availableReplicas", "conditions"),
    "EndpointSlice": (),
    "HorizontalPodAutoscaler": (),
    "NetworkPolicy": (),
    "PodDisruptionBudget": (),
    "Service": (),
    "ServiceAccount": (),
}
"""By kind, what decisions rest on of a status; all of it for kinds that are not listed."""

_POD_SPEC = ("nodeName",)
_NOISE = ("deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration")
"""Annotations of others that no decision rests on."""


def _slim(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop what no decision rests on: it is most of an object's memory, and most of what changes."""
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    if "annotations" in metadata:
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k not in _NOISE}
    slim = {**obj, "metadata": metadata}
    kind = obj["kind"]
    if kind == POD.kind:
        slim["spec"] = {k: v for k, v in obj.get("spec", {}).items() if k in _POD_SPEC}
    elif kind in _STATUS:
        status = {k: v for k, v in obj.get("status", {}).items() if k in _STATUS[kind]}
        if "conditions" in status:
            status["conditions"] = [{k: c[k] for k in _CONDITION if k in c} for c in status["conditions"]]
        slim["status"] = status
    # Read anew, so that equal keys of all objects are one string: half of what an object takes.
    fresh: Mapping[str, Any] = orjson.loads(orjson.dumps(slim))
    return fresh


def _pressing(obj: Mapping[str, Any]) -> Any:
    """Give what of an object cannot wait to be decided upon; the rest is progress on the way there."""
    status = obj.get("status", {})
    conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
    if obj["kind"] == POD.kind:
        going = "deletionTimestamp" in obj["metadata"]
        return conditions.get("Ready"), status.get("phase"), status.get("podIP"), going
    if obj["kind"] == DEPLOYMENT.kind:
        return status.get("readyReplicas"), status.get("availableReplicas"), obj["metadata"].get("generation")
    return obj


def _same(known: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Tell whether two versions of an object differ in nothing that a decision rests on."""
    if known["metadata"]["uid"] != found["metadata"]["uid"]:
        return False
    renamed = {**known["metadata"], "resourceVersion": found["metadata"].get("resourceVersion")}
    return renamed == found["metadata"] and {**known, "metadata": renamed} == found
