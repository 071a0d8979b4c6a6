"""What whoever installs the operator decides: images, where artifacts go, how models reach the nodes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class NodeRegistry(BaseModel):
    """A registry that the nodes can pull from, and the name under which they reach it."""

    model_config = ConfigDict(frozen=True)

    host: str = Field(description="Host as it stands in an oci:// reference, as pods reach it.")
    node_host: str = Field(description="Host as the kubelet must name it; often the same.")

    @classmethod
    def parse(cls, text: str) -> "NodeRegistry":
        """Read `HOST` or `HOST=NODE_HOST`."""
        host, _, node_host = text.partition("=")
        return cls(host=host, node_host=node_host or host)


class Settings(BaseModel):
    """Settings of one operator; they change only with its restart."""

    model_config = ConfigDict(frozen=True)

    namespaces: tuple[str, ...] = Field(default=(), description="Namespaces to work in; none: all of them.")
    server_image: str = "localhost/longshore/server:dev"
    optimizer_image: str = "localhost/longshore/optimizer:dev"
    triton_image: str = "localhost/longshore/triton:dev"
    tensorrt_image: str | None = Field(
        default=None,
        description="Optimizer with TensorRT, for engines; None: serving pods build them as they start.",
    )
    store: str = Field(
        default="oci://localhost:5000/longshore", description="Where the optimize Job puts artifacts."
    )
    store_plain_http: bool = Field(default=False, description="The store's registry speaks HTTP without TLS.")
    node_registries: tuple[NodeRegistry, ...] = Field(
        default=(), description="Registries that nodes pull from: their models are mounted as image volumes."
    )
    plain_http_registries: tuple[str, ...] = Field(
        default=(), description="Registry hosts that pods reach by HTTP without TLS."
    )
    activator_token: str | None = Field(
        default=None, description="File with the bearer token of the activators; None: there are none."
    )
    activator_namespace: str = Field(default="longshore-system", description="Where the activators run.")
    prometheus: str | None = Field(
        default=None,
        description="Address of the Prometheus that scrapes the pods: for KEDA's triggers, GPU utilization.",
    )
    pack_small_models: bool = Field(
        default=False, description="Ask the scheduler to put pods of small models onto few nodes."
    )
    store_secret: str | None = Field(
        default=None, description="Secret with the store's credentials, in every namespace that uses it."
    )
    image_pull_secrets: tuple[str, ...] = ()
    job_active_deadline_grace: Annotated[int, Field(ge=0, le=86400)] = Field(
        default=600, description="Seconds beyond optimize.budget.time after which the Job's pod is ended."
    )
