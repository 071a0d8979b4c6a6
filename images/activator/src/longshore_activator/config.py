"""What the operator tells the activator: routes, their endpoints and their bounds, all checked here."""

from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


def _address(text: str) -> str:
    return str(ip_address(text))


Address = Annotated[str, Field(max_length=45), AfterValidator(_address)]
"""An IPv4 or IPv6 address, never a host name: the data path resolves nothing."""

Key = Annotated[str, Field(max_length=317, pattern=r"^[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*$")]
"""`namespace/name` of the ModelDeployment."""


class Wire(BaseModel):
    """A frozen value, camelCase on the wire."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid", allow_inf_nan=False
    )


class Port(Wire):
    """One port of a model: where the activator listens and what it reaches on the pod."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = "http"
    listen: Annotated[int, Field(ge=0, le=65535)]
    """Port to listen on; 0 takes any free one, which the answer names."""
    target: Annotated[int, Field(ge=1, le=65535)]


class Endpoint(Wire):
    """One pod. `ready` is the operator's view: such a pod is spliced to without being asked first."""

    address: Address
    ready: bool = False
    warm: bool = False
    """A loaded copy that stands in while no other pod is usable. A client that it serves is demand still, and
    one that has said nothing is held as without it."""


class ReadinessMode(StrEnum):
    """How a pod that the operator does not call ready yet is asked."""

    HTTP = "Http"
    HTTPS = "Https"
    TCP = "Tcp"


class Readiness(Wire):
    """The question put to a pod before anything is spliced to it.

    The default is the Open Inference Protocol's: a server may listen long before it can answer.
    """

    mode: ReadinessMode = ReadinessMode.HTTP
    path: Annotated[str, Field(max_length=1024, pattern=r"^/[!-~]*$")] = "/v2/health/ready"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the question; absent: the target of the route's first port."""


class WakeOn(StrEnum):
    """What counts as demand. A load balancer's bare connect should not start a model."""

    DATA = "Data"
    CONNECTION = "Connection"


class Limits(Wire):
    """Bounds of one model; beyond them a client gets a reset."""

    max_held: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_held_bytes: Annotated[int, Field(ge=4096, le=1 << 34)] = 64 << 20
    hold_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000


class Route(Wire):
    """One model."""

    key: Key
    ports: Annotated[tuple[Port, ...], Field(min_length=1, max_length=8)]
    endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=1000)] = ()
    readiness: Readiness = Readiness()
    limits: Limits = Limits()
    wake_on: WakeOn = WakeOn.DATA

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({p.name for p in self.ports}) != len(self.ports):
            raise ValueError(f"{self.key}: two ports have the same name: give each its own")
        if len({e.address for e in self.endpoints}) != len(self.endpoints):
            raise ValueError(f"{self.key}: an endpoint is listed twice: list each address once")
        return self


class Routes(Wire):
    """All that this activator serves; what is not listed is closed."""

    version: Annotated[int, Field(ge=0)]
    """Rises with each change; a smaller one than the present is refused as old news."""
    routes: Annotated[tuple[Route, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        keys: set[str] = set()
        ports: set[int] = set()
        for route in self.routes:
            if route.key in keys:
                raise ValueError(f"route {route.key} is listed twice: list each model once")
            keys.add(route.key)
            for port in route.ports:
                if port.listen and port.listen in ports:
                    raise ValueError(f"port {port.listen} is asked for twice: give each model its own")
                ports.add(port.listen)
        return self


class Endpoints(Wire):
    """The endpoints of one model: the short message on the path of a cold start."""

    endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({e.address for e in self.endpoints}) != len(self.endpoints):
            raise ValueError("an endpoint is listed twice: list each address once")
        return self
