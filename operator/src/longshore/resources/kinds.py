"""The kinds that Longshore reads and writes, and how the API server addresses them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longshore.api import GROUP, KIND, PLURAL, VERSION
from longshore.resources.names import MANAGED_BY, MANAGER

Object = Mapping[str, Any]
"""A Kubernetes object as plain data."""


@dataclass(frozen=True)
class Kind:
    """A kind, namespaced but for Node. `group` is empty for the core group."""

    group: str
    version: str
    kind: str
    plural: str
    optional: bool = False
    """A custom resource of somebody else's, which a cluster may lack."""
    made_by: str = MANAGED_BY
    """The label that says who made an object: the Service's own slices inherit the usual one. Empty: objects
    of others matter too."""

    @property
    def selector(self) -> str:
        """Select what Longshore made; empty where everybody's objects are looked at."""
        return f"{self.made_by}={MANAGER}" if self.made_by else ""

    @property
    def api_version(self) -> str:
        """Give the value of `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """Give the URL path of one object, of a namespace's list, or of the whole cluster's list."""
        base = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{base}{scope}/{self.plural}" + (f"/{name}" if name else "")


MODEL_DEPLOYMENT = Kind(GROUP, VERSION, KIND, PLURAL)
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
JOB = Kind("batch", "v1", "Job", "jobs")
POD = Kind("", "v1", "Pod", "pods")
SERVICE = Kind("", "v1", "Service", "services")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
EVENT = Kind("", "v1", "Event", "events")
POD_DISRUPTION_BUDGET = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes", optional=True)
GRPC_ROUTE = Kind("gateway.networking.k8s.io", "v1", "GRPCRoute", "grpcroutes", optional=True)
HORIZONTAL_POD_AUTOSCALER = Kind(
    *("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    made_by="",
)
SCALED_OBJECT = Kind("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects", optional=True)
ENDPOINT_SLICE = Kind(
    *("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    made_by="endpointslice.kubernetes.io/managed-by",
)
NODE = Kind("", "v1", "Node", "nodes")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")

CHILDREN: tuple[Kind, ...] = (
    SERVICE_ACCOUNT,
    NETWORK_POLICY,
    JOB,
    DEPLOYMENT,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    ENDPOINT_SLICE,
    HTTP_ROUTE,
    GRPC_ROUTE,
    HORIZONTAL_POD_AUTOSCALER,
    SCALED_OBJECT,
)
"""What a ModelDeployment owns directly, in the order in which it is written."""

_BY_NAME = {(k.group, k.kind): k for k in (MODEL_DEPLOYMENT, POD, EVENT, LEASE, *CHILDREN)}


def kind_of(obj: Object) -> Kind:
    """Find the kind of an object.

    Raises:
        KeyError: Longshore does not work with this kind.
    """
    group, _, _ = obj["apiVersion"].rpartition("/")
    return _BY_NAME[(group, obj["kind"])]
