"""The Deployment of one revision."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longshore.api.base import millicores
from longshore.api.serving import PodTemplate, Serving
from longshore.resources.model_source import (
    ModelSource,
    fetch_container,
    image_volume,
    pulled_by_nodes,
    source_volumes,
)
from longshore.resources.names import (
    ARTIFACT,
    CHOSEN,
    GPU,
    IMAGE,
    MODEL_URI,
    RUNTIME,
    SERVER,
    TEMPLATE,
    Owner,
    deployment_name,
    mirror_key,
    side_address,
)
from longshore.resources.packing import is_small, packed
from longshore.resources.pod import bare_pod_spec, pod_spec
from longshore.runtimes.base import MODEL_PATH, ContainerInput, Runtime
from longshore.settings import Settings

DEFAULT_REQUESTS = {"cpu": "250m", "memory": "256Mi"}
DEFAULT_LIMITS = {"cpu": "1", "memory": "2Gi"}
_SIZE_LIMIT = "20Gi"


def pod_template(
    owner: Owner, revision: str, source: ModelSource, serving: Serving, runtime: Runtime, settings: Settings
) -> dict[str, Any]:
    """Build the pod template of a revision."""
    resources = container_resources(serving)
    wanted = ContainerInput(
        model_name=owner.name,
        serving=serving,
        settings=settings,
        cpu_millicores=serving_millicores(serving),
        mirror_target=side_address(owner, "canary"),
        mirror_key=mirror_key(owner),
    )
    container = runtime.container(wanted)
    overlay = serving.pod_template
    container = {
        **container,
        "resources": resources,
        "env": [*container.get("env", []), *(variable.to_wire() for variable in overlay.env)],
    }
    packaged = pulled_by_nodes(source.image, settings) if source.image else None
    if packaged:
        spec = bare_pod_spec(owner.name, [{**container, "image": packaged}])
    else:
        spec = _with_volumes(owner, source, container, runtime.volumes(wanted), settings)
    spec["terminationGracePeriodSeconds"] = runtime.grace_period(serving)
    if settings.pack_small_models and is_small(resources["requests"]):
        spec["affinity"] = packed(owner)
    spec |= _placement(overlay)
    secrets = [*settings.image_pull_secrets, *(s.secret_name for s in overlay.image_pull_secrets)]
    if secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in dict.fromkeys(secrets)]
    metadata: dict[str, Any] = {"labels": {**overlay.labels, **owner.labels(SERVER, revision)}}
    if overlay.annotations:
        metadata["annotations"] = dict(overlay.annotations)
    return {"metadata": metadata, "spec": spec}


def _with_volumes(
    owner: Owner,
    source: ModelSource,
    container: Mapping[str, Any],
    more: Sequence[dict[str, Any]],
    settings: Settings,
) -> dict[str, Any]:
    """Give the pod spec of a server that finds its model on a volume."""
    mounts = [
        {"name": "model", "mountPath": MODEL_PATH, "readOnly": True},
        *container.get("volumeMounts", []),
    ]
    image = image_volume(source, settings)
    if image:
        volumes: list[dict[str, Any]] = [{"name": "model", "image": image}]
    else:
        volumes = [
            {"name": "model", "emptyDir": {"sizeLimit": _SIZE_LIMIT}},
            *source_volumes(source.model, None, settings),
        ]
    spec = pod_spec(owner.name, [{**container, "volumeMounts": mounts}], [*volumes, *more])
    if not image:
        spec["initContainers"] = [fetch_container(owner, source, settings, MODEL_PATH)]
    return spec


@dataclass(frozen=True)
class Provenance:
    """Where a revision comes from and what became of it; kept in the annotations of its Deployment."""

    model: str
    artifact: str | None = None
    image: str | None = None
    chosen: str | None = None
    runtime: str | None = None
    gpu: str | None = None
    """Labels of the nodes that a TensorRT engine was built for, empty where they were not known; None without
    an engine."""

    def annotations(self) -> dict[str, str]:
        """Give the annotations that hold it."""
        values = {
            MODEL_URI: self.model,
            ARTIFACT: self.artifact,
            IMAGE: self.image,
            CHOSEN: self.chosen,
            RUNTIME: self.runtime,
        }
        found = {key: value for key, value in values.items() if value}
        return found if self.gpu is None else found | {GPU: self.gpu}


def deployment(
    owner: Owner, revision: str, template: Mapping[str, Any], replicas: int, provenance: Provenance
) -> dict[str, Any]:
    """Build the Deployment of a revision from its pod template.

    The template is kept in an annotation, so that later versions of the operator apply it as it was.
    """
    metadata = owner.metadata(deployment_name(owner, revision), SERVER, revision)
    metadata["annotations"] = {
        TEMPLATE: json.dumps(template, sort_keys=True, separators=(",", ":")),
        **provenance.annotations(),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": owner.selector(revision)},
            "template": dict(template),
        },
    }


def container_resources(serving: Serving) -> dict[str, Any]:
    """Give requests and limits with the defaults filled in; a request never exceeds its limit."""
    given = serving.resources
    limits = {**DEFAULT_LIMITS, **given.limits}
    requests = {**{k: v for k, v in DEFAULT_REQUESTS.items() if k not in given.limits}, **given.requests}
    return {"requests": requests, "limits": limits}


def serving_millicores(serving: Serving) -> int:
    """Give the CPU limit of a serving pod, in millicores."""
    return millicores(container_resources(serving)["limits"]["cpu"])


def _placement(overlay: PodTemplate) -> dict[str, Any]:
    """Give the parts of the pod spec that say where and how it is scheduled."""
    spread = [dict(constraint) for constraint in overlay.topology_spread_constraints]
    parts: dict[str, Any] = {
        "nodeSelector": dict(overlay.node_selector),
        "tolerations": [toleration.to_wire() for toleration in overlay.tolerations],
        "affinity": overlay.affinity,
        "topologySpreadConstraints": spread,
        "priorityClassName": overlay.priority_class_name,
        "runtimeClassName": overlay.runtime_class_name,
        "schedulerName": overlay.scheduler_name,
    }
    return {key: value for key, value in parts.items() if value}
