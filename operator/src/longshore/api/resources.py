"""Requests and limits of a container, bounded."""

from typing import Annotated

from pydantic import Field

from longshore.api.base import Part, Quantity

ResourceName = Annotated[str, Field(max_length=128)]
ResourceList = Annotated[dict[ResourceName, Quantity], Field(max_length=16)]


class Resources(Part):
    """Compute resources of a container, as in a Pod."""

    requests: ResourceList = Field(default={}, description="What the scheduler sets aside, by resource name.")
    limits: ResourceList = Field(
        default={}, description="What the container may use at most, by resource name."
    )
