"""TensorRT engines: which GPU and driver one is built for, and when another is built.

An engine runs only with the GPU, and is at its best only with the driver, that it was built with. Both stand
in the labels of the nodes (NVIDIA's GPU feature discovery), so a change of either makes another revision: its
Job builds the engine on such a node, and the revision is rolled out as any other.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from longshore.api import Spec
from longshore.api.base import quantity
from longshore.api.serving import Accelerator, RuntimeName, Serving
from longshore.plan.state import Observed
from longshore.resources.gpu import Gpu, parse_labels
from longshore.resources.names import GPU_PRODUCT
from longshore.settings import Settings

WHOLE = "nvidia.com/gpu"
SLICE = "nvidia.com/mig-"

_IDENTITY = (
    GPU_PRODUCT,
    "nvidia.com/cuda.driver-version.full",
    "nvidia.com/cuda.driver.major",
    "nvidia.com/cuda.driver.minor",
    "nvidia.com/cuda.driver.rev",
)
"""Labels that tell GPUs and drivers apart; the last three are those of GPU feature discovery before 0.17.
Source: NVIDIA/k8s-device-plugin, "Catalog of Labels"."""


@dataclass(frozen=True)
class EngineStage:
    """What an engine is for; `looks` tells that the nodes' labels are needed, `known` that they are there."""

    gpu: Gpu | None = None
    looks: bool = False
    known: bool = True


def decide(observed: Observed, spec: Spec) -> EngineStage:
    """Choose what the engine of this spec is built for; no GPU where none is wanted.

    Where nodes differ, those that are most count; what stands is kept as long as half of the nodes are like
    it, so that drivers which are upgraded node by node make one new revision. Nodes that are all gone, as
    an autoscaler removes them, change nothing.
    """
    resource = engine_resource(spec.serving, observed.settings)
    if resource is None:
        return EngineStage()
    standing = _standing(observed)
    if observed.gpu_nodes is None:
        return EngineStage(Gpu(resource, standing or ()), looks=True, known=False)
    wanted = spec.serving.pod_template.node_selector.items()
    found = Counter(_identity(labels) for labels in observed.gpu_nodes if wanted <= labels.items())
    if not found or (standing and 2 * found[standing] >= found.total()):
        return EngineStage(Gpu(resource, standing or ()), looks=True)
    most = max(found, key=lambda labels: (found[labels], labels))
    return EngineStage(Gpu(resource, most), looks=True)


def engine_resource(serving: Serving, settings: Settings) -> str | None:
    """Give the resource of the GPU that an engine is built for; None where none is built by a Job."""
    options = serving.triton
    if settings.tensorrt_image is None or serving.runtime is RuntimeName.ONNX_RUNTIME or options is None:
        return None
    if options.accelerator is not Accelerator.TENSORRT:
        return None
    limits = serving.resources.limits.items()
    asked = (name for name, amount in limits if name == WHOLE or name.startswith(SLICE) if quantity(amount))
    return next(asked, None)


def _identity(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, labels[name]) for name in _IDENTITY if name in labels)


def _standing(observed: Observed) -> tuple[tuple[str, str], ...] | None:
    """Read what the newest revision's engine was built for; None where no revision has one."""
    built = [d for d in observed.deployments if d.provenance.gpu is not None and not d.deleting]
    if not built:
        return None
    newest = max(built, key=lambda d: (d.created, d.revision))
    return parse_labels(newest.provenance.gpu or "")
