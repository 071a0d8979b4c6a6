"""The kind itself: `ModelDeployment`."""

import re
from typing import ClassVar

from pydantic import Field

from longshore.api.base import Label, Name, Part, Rule
from longshore.api.model import Model
from longshore.api.optimize import Optimize
from longshore.api.rollout import Rollout
from longshore.api.route import Route
from longshore.api.scaling import Scaling
from longshore.api.serving import Serving
from longshore.api.status import Status

GROUP = "longshore.dev"
VERSION = "v1alpha1"
KIND = "ModelDeployment"
PLURAL = "modeldeployments"
NAME_LIMIT = 40
"""Longest name: children append a revision and must fit a DNS label of 63 characters."""


class Spec(Part):
    """What is wanted. Everything but model.uri is optional; defaults are never written back."""

    model: Model = Field(description="The model to serve.")
    optimize: Optimize | None = Field(
        default=None, description="What may be done to the model; absent: it is served as it is."
    )
    serving: Serving = Field(default=Serving(), description="What answers requests.")
    scaling: Scaling = Field(default=Scaling(), description="How many pods run.")
    rollout: Rollout = Field(default=Rollout(), description="How a new revision takes over.")
    route: Route | None = Field(default=None, description="How requests reach the model from outside.")


class Metadata(Part):
    """What Longshore reads of an object's metadata; Kubernetes owns and checks it."""

    name: Name = Field(description="Name of the ModelDeployment.")
    namespace: Label | None = Field(default=None, description="Namespace; absent: that of the context.")


class ModelDeployment(Part):
    """One model, from its source to its production traffic."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"size(self.metadata.name) <= {NAME_LIMIT}",
            f"metadata.name may have {NAME_LIMIT} characters at most: shorten it, children append to it",
            lambda md: len(md.metadata.name) <= NAME_LIMIT,
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "a Service is named after metadata.name: change it to lower-case letters, digits and '-', "
            "a letter first",
            lambda md: re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", md.metadata.name) is not None,
        ),
    )

    metadata: Metadata = Field(description="Name and namespace.")
    spec: Spec = Field(description="What is wanted.")
    status: Status = Field(default=Status(), description="What stands; written by the operator.")
