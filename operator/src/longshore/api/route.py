"""`spec.route`: how requests reach the model from outside."""

from typing import Annotated, ClassVar

from pydantic import Field

from longshore.api.base import Label, Name, Part, Rule


class ParentReference(Part):
    """A Gateway (or another parent) that the route attaches to."""

    group: Annotated[str, Field(max_length=253)] = Field(
        default="gateway.networking.k8s.io", description="API group of the parent."
    )
    kind: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        default="Gateway", description="Kind of the parent."
    )
    name: Name = Field(description="Name of the parent.")
    namespace: Label | None = Field(default=None, description="Namespace of the parent; absent: the same.")
    section_name: Name | None = Field(
        default=None, description="Listener of the parent; absent: all that fit."
    )
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the parent; absent: all that fit."
    )


HostName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        description="A host name; the first label may be *.",
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]


class Route(Part):
    """A Gateway API route. HTTPRoute for REST, GRPCRoute where a parent is named for gRPC."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.parentRefs) && size(self.parentRefs) > 0 || "
            "has(self.grpcParentRefs) && size(self.grpcParentRefs) > 0",
            "a route needs a gateway: name it in route.parentRefs",
            lambda r: bool(r.parent_refs or r.grpc_parent_refs),
        ),
    )

    parent_refs: Annotated[tuple[ParentReference, ...], Field(max_length=8)] = Field(
        default=(), description="Gateways for HTTP."
    )
    grpc_parent_refs: Annotated[tuple[ParentReference, ...], Field(max_length=8)] = Field(
        default=(),
        description="Gateways (listeners) for gRPC; not the same listener as HTTP without own hostnames.",
    )
    hostnames: Annotated[tuple[HostName, ...], Field(max_length=16)] = Field(
        default=(), description="Host names that lead here; absent: all."
    )
    path_prefix: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[^\x00-\x20\x7f]*$")] = (
        Field(default="/", description="Requests under this path lead here.")
    )
