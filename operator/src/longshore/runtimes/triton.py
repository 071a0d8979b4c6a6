"""NVIDIA Triton Inference Server, started by `longshore-triton` (images/triton) in the pod.

What depends on the model itself (its config.pbtxt) is decided there, beside the model; here stands what
depends on the spec alone.
"""

import json
from typing import Any

from longshore.api.base import canonical, quantity, seconds
from longshore.api.model import Format
from longshore.api.serving import Accelerator, RuntimeName, Serving
from longshore.api.serving import Triton as TritonOptions
from longshore.resources.deployment import container_resources
from longshore.resources.names import GRPC_PORT, HTTP_PORT
from longshore.resources.pod import environment
from longshore.runtimes.base import COPIES, ContainerInput, MetricSource, Series, http_probe

METRICS_PORT = 8002
SAMPLES_PORT = 8003
DRAIN_SECONDS = 3
"""Requests go on being answered this long after SIGTERM: kube-proxy needs a second to forget an endpoint."""

_EXIT_SECONDS = 22
GRACE_SECONDS = DRAIN_SECONDS + 18 + _EXIT_SECONDS + 5
"""Drained, gRPC's clients have 18 s to connect elsewhere; then comes Triton's own exit timeout."""

_LOAD_SECONDS = 900
_ENGINE_SECONDS = 3600
"""Building a TensorRT engine takes minutes to the better part of an hour."""

_SHARED_MEMORY_FLOOR = 64 << 20
_SHARED_MEMORY_INSTANCE = 64 << 20
_SHARED_MEMORY_ROW = 1 << 20
"""Shared memory in bytes: Python-based backends pass tensors through it, a region an instance."""

_GPU = "nvidia.com/gpu"
_MIG = "nvidia.com/mig-"


class Triton:
    """Triton, from NVIDIA's image or assembled from PyPI."""

    name = RuntimeName.TRITON
    loads = frozenset({Format.ONNX, Format.TRITON_REPOSITORY})
    samples_port = SAMPLES_PORT
    metrics = MetricSource(
        port=METRICS_PORT,
        path="/metrics",
        series={
            "requests": (Series("nv_inference_request_success"), Series("nv_inference_request_failure")),
            # Triton's Python backend counts an answer with an error as a success.
            "errors": (Series("nv_inference_request_failure"), Series("longshore_requests_failed_total")),
            "slow": (Series("longshore_requests_over_objective_total"),),
            "executions": (Series("nv_inference_exec_count"),),
            "rows": (Series("nv_inference_count"),),
            "queue_seconds": (Series("nv_inference_queue_duration_us", 1e-6),),
            "compute_seconds": (Series("longshore_compute_time_seconds_total"),),
            "request_seconds": (Series("nv_inference_request_duration_us", 1e-6),),
            "pending": (Series("nv_inference_pending_request_count"),),
            **COPIES,
        },
        predictions="/metrics/predictions",
        side_port=SAMPLES_PORT,
    )

    def refuses(self, serving: Serving) -> str | None:
        """Refuse what no Triton can do with the resources that were asked for."""
        options = serving.triton or TritonOptions()
        mig, whole = _devices(serving, _MIG), _devices(serving, _GPU)
        if mig > 1 or (mig and whole):
            return (
                "serving.resources.limits asks for several GPU slices, and a process sees only one of them: "
                "ask for one slice and more replicas"
            )
        if options.accelerator is Accelerator.TENSORRT and not mig + whole:
            return (
                "serving.triton.accelerator: TensorRT needs a GPU: ask for nvidia.com/gpu in "
                "serving.resources.limits, or remove the field"
            )
        too_large = [size for size in options.preferred_batch_sizes if size > serving.batching.max_size]
        if too_large:
            return (
                f"serving.triton.preferredBatchSizes has {too_large[0]}, and serving.batching.maxSize is "
                f"{serving.batching.max_size}: raise maxSize or remove the size"
            )
        if options.response_cache and quantity(options.response_cache) >= _memory(serving):
            return (
                f"serving.triton.responseCache is {options.response_cache} and the pod's memory limit "
                f"{_memory(serving)} bytes: raise serving.resources.limits.memory or make the cache smaller"
            )
        return None

    def container(self, wanted: ContainerInput) -> dict[str, Any]:
        """Build the container; Triton is ready once every model is loaded and its warm-up has run."""
        options = wanted.serving.triton or TritonOptions()
        building = options.accelerator is Accelerator.TENSORRT
        load = _ENGINE_SECONDS if building else _LOAD_SECONDS
        return {
            "name": "server",
            "image": options.image or wanted.settings.triton_image,
            "command": ["longshore-triton"],
            "env": environment(
                {
                    "HOME": "/tmp",  # noqa: S108 (the pod's own emptyDir)
                    "LONGSHORE_TRITON": json.dumps(_request(wanted), sort_keys=True, separators=(",", ":")),
                }
            ),
            "ports": [
                {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
                {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
                {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
                {"name": "samples", "containerPort": SAMPLES_PORT, "protocol": "TCP"},
            ],
            "startupProbe": http_probe("/v2/health/ready", HTTP_PORT, period=1, failures=load),
            "readinessProbe": http_probe(
                f"/v2/models/{wanted.model_name}/ready", HTTP_PORT, period=2, failures=2
            ),
            # A Python stub that died is seen by longshore-triton itself, which then ends the container.
            "livenessProbe": http_probe("/v2/health/live", HTTP_PORT, period=10, failures=6),
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 (a mount point)
        }

    def volumes(self, wanted: ContainerInput) -> list[dict[str, Any]]:
        """Give the shared memory, sized by instances and batch, at most half of the pod's memory."""
        options = wanted.serving.triton or TritonOptions()
        least = 2 if wanted.serving.batching.queue else 1
        copies = options.instances or max(least, wanted.cpu_millicores // 1000)
        batch = max(_SHARED_MEMORY_INSTANCE, wanted.serving.batching.max_size * _SHARED_MEMORY_ROW)
        size = min(_SHARED_MEMORY_FLOOR + copies * batch, _memory(wanted.serving) // 2)
        return [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": canonical(f"{size >> 20}Mi")}}]

    def grace_period(self, serving: Serving) -> int:
        """Give the seconds between SIGTERM and SIGKILL."""
        return GRACE_SECONDS


RUNTIME = Triton()


def _request(wanted: ContainerInput) -> dict[str, Any]:
    """Give what longshore-triton is asked; its names are the fields of `longshore_triton.wanted.Wanted`."""
    serving = wanted.serving
    options = serving.triton or TritonOptions()
    request: dict[str, Any] = {
        "name": wanted.model_name,
        "http_port": HTTP_PORT,
        "grpc_port": GRPC_PORT,
        "metrics_port": METRICS_PORT,
        "samples_port": SAMPLES_PORT,
        "samples_key": wanted.mirror_key,
        "mirror_target": wanted.mirror_target,
        "cpu_millicores": wanted.cpu_millicores,
        "memory_bytes": _memory(serving),
        "gpus": _devices(serving, _GPU) + _devices(serving, _MIG),
        "max_batch_size": serving.batching.max_size,
        "allow_python": options.allow_python,
        "latest_versions": options.latest_versions,
        "warmup": options.warmup,
        "drain_seconds": DRAIN_SECONDS,
        "exit_seconds": _EXIT_SECONDS,
    }
    if serving.latency_objective:
        request["objective_us"] = round(seconds(serving.latency_objective) * 1e6)
    if serving.batching.max_delay is not None:
        request["max_delay_us"] = round(seconds(serving.batching.max_delay) * 1e6)
    if serving.batching.queue:
        request["queue"] = serving.batching.queue
    if options.instances:
        request["instances"] = options.instances
    if options.preferred_batch_sizes:
        request["preferred_batch_sizes"] = list(options.preferred_batch_sizes)
    if options.accelerator:
        request["accelerator"] = options.accelerator.value
    if options.response_cache:
        request["cache_bytes"] = int(quantity(options.response_cache))
    if options.rate_limit:
        request["rate_resources"] = dict(options.rate_limit.resources)
        request["rate_priority"] = options.rate_limit.priority
    if options.sequence:
        sequence = options.sequence
        request["sequence"] = {
            "strategy": sequence.strategy.value,
            "max_idle_us": round(seconds(sequence.max_idle) * 1e6),
            "start": sequence.start,
            "ready": sequence.ready,
            "end": sequence.end,
            "correlation": sequence.correlation,
        }
    return request


def _devices(serving: Serving, prefix: str) -> int:
    limits = serving.resources.limits
    return sum(int(quantity(amount)) for name, amount in limits.items() if name.startswith(prefix))


def _memory(serving: Serving) -> int:
    return int(quantity(container_resources(serving)["limits"]["memory"]))
