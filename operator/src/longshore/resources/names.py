"""Names, labels and annotations: what everything is called and found by."""

import hashlib
from dataclasses import dataclass
from typing import Any

from longshore.api import GROUP, KIND, VERSION

MANAGER = "longshore"
"""Field manager of every server-side apply, and value of app.kubernetes.io/managed-by."""

NAME = f"{GROUP}/name"
REVISION = f"{GROUP}/revision"
COMPONENT = "app.kubernetes.io/component"
MANAGED_BY = "app.kubernetes.io/managed-by"

APPLIED = f"{GROUP}/applied"
"""Annotation: hash of what was applied, so that a removed field is noticed without a request."""
TEMPLATE = f"{GROUP}/template"
"""Annotation of a Deployment: its pod template as first built; upgrading the operator restarts nothing."""
ARTIFACT = f"{GROUP}/artifact"
MODEL_URI = f"{GROUP}/model"
IMAGE = f"{GROUP}/image"
CHOSEN = f"{GROUP}/chosen"
RUNTIME = f"{GROUP}/runtime"
GPU = f"{GROUP}/gpu"
"""Annotation of a Deployment: labels of the nodes that its TensorRT engine was built for."""
GPU_PRODUCT = "nvidia.com/gpu.product"
"""Label of nodes with a GPU, from NVIDIA's GPU feature discovery."""
STABLE = f"{GROUP}/stable"
"""Annotation of the Service: the revision that was promoted; absent until one was."""
CANARY = f"{GROUP}/canary"
WEIGHT = f"{GROUP}/weight"
"""Annotations of the Service where no gateway divides requests: the canary, and the percent asked for it."""
ENTERED_AT = f"{GROUP}/entered-at"
"""Annotation of the activators' EndpointSlice: when they were put in, RFC 3339."""
WEIGHTED_AT = f"{GROUP}/weighted-at"
"""Annotation of an HTTPRoute: when its weights last changed, RFC 3339."""
ATTEMPT = f"{GROUP}/attempt"
"""Annotation of a Job: which attempt it is, counted from 1."""
KEY = f"{GROUP}/artifact-key"
"""Label of a Job: hash of what decides its artifact."""
RETRY = f"{GROUP}/retry"
"""Annotation: a person sets it on the ModelDeployment to try once more what failed; a Job carries the value
that it was made under, so that it is done once."""
FINALIZER = f"{GROUP}/artifacts"

SERVER = "server"
WARM = "warm"
"""Component of a loaded copy that takes no traffic until the activators lead some to it."""
MEASURE = "measure"
"""Component of a pod that `runtime: Auto` measures; no Service selects it."""
OPTIMIZER = "optimizer"

HTTP_PORT = 8080
GRPC_PORT = 8081
SERVICE_PORT = 80


@dataclass(frozen=True)
class Owner:
    """The ModelDeployment that an object belongs to."""

    namespace: str
    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """Give the owner reference that makes deletion cascade."""
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

    def selector(self, revision: str | None = None) -> dict[str, str]:
        """Give the labels that find the serving pods, of one revision or of all."""
        labels = {NAME: self.name, COMPONENT: SERVER}
        return labels | {REVISION: revision} if revision else labels

    def labels(self, component: str, revision: str | None = None) -> dict[str, str]:
        """Give the labels of a child."""
        labels = {
            "app.kubernetes.io/name": "longshore",
            "app.kubernetes.io/instance": self.name,
            MANAGED_BY: MANAGER,
            COMPONENT: component,
            NAME: self.name,
        }
        return labels | {REVISION: revision} if revision else labels

    def metadata(self, name: str, component: str = SERVER, revision: str | None = None) -> dict[str, Any]:
        """Give the metadata of a child."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(component, revision),
            "ownerReferences": [self.reference()],
        }


def annotation_of(order: str) -> str:
    """Give the one-shot annotation of an order such as `promote`."""
    return f"{GROUP}/{order}"


def deployment_name(owner: Owner, revision: str) -> str:
    """Name the Deployment of a revision."""
    return f"{owner.name}-{revision}"


def model_of_deployment(name: str) -> str:
    """Give the ModelDeployment whose revision a Deployment of this name would be; empty when none."""
    return name.rpartition("-")[0]


def side_service(owner: Owner, side: str) -> str:
    """Name the Service of a side, `stable` or `canary`, that routes weigh."""
    return f"{owner.name}-{side}"


def side_address(owner: Owner, side: str) -> str:
    """Give `host:port` of the Service of a side, as pods reach it."""
    return f"{side_service(owner, side)}.{owner.namespace}.svc:{SERVICE_PORT}"


def mirror_key(owner: Owner) -> str:
    """Give what pods take each other's copies of requests by, and the operator's word to send them.

    Whoever may only send requests cannot know it: it comes from the ModelDeployment's random uid.
    """
    return hashlib.sha256(f"{owner.uid}/mirror".encode()).hexdigest()


def job_name(owner: Owner, key: str, attempt: int) -> str:
    """Name the optimize Job of an artifact key; every attempt has its own, so none is ever replaced."""
    return f"{owner.name}-optimize-{key}-{attempt}"
