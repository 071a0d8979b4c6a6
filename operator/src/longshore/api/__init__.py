"""The kind `ModelDeployment` as pydantic models; what a field means stands here and only here."""

from longshore.api.deployment import (
    GROUP,
    KIND,
    PLURAL,
    VERSION,
    ModelDeployment,
    Spec,
)
from longshore.api.model import Model
from longshore.api.optimize import Optimize
from longshore.api.rollout import Rollout
from longshore.api.route import Route
from longshore.api.scaling import Scaling
from longshore.api.serving import Serving
from longshore.api.status import Status

__all__ = [
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "Model",
    "ModelDeployment",
    "Optimize",
    "Rollout",
    "Route",
    "Scaling",
    "Serving",
    "Spec",
    "Status",
]
