"""ONNX Runtime behind Longshore's own server."""

from typing import Any

from longshore.api.base import seconds
from longshore.api.model import Format
from longshore.api.serving import DEFAULT_QUEUE, RuntimeName, Serving
from longshore.resources.names import GRPC_PORT, HTTP_PORT
from longshore.resources.pod import environment
from longshore.runtimes.base import COPIES, MODEL_PATH, ContainerInput, MetricSource, Series, http_probe

DRAIN_SECONDS = 3
"""Requests go on being answered this long after SIGTERM: kube-proxy needs a second to forget an endpoint."""

GRACE_SECONDS = 30


class OnnxRuntime:
    """The default runtime."""

    name = RuntimeName.ONNX_RUNTIME
    loads = frozenset({Format.ONNX})
    samples_port = HTTP_PORT
    metrics = MetricSource(
        port=HTTP_PORT,
        path="/metrics",
        predictions="/metrics/predictions",
        series={
            "requests": (Series("longshore_requests_total"),),
            "succeeded": (Series("nv_inference_request_success"),),
            # A request that the stable revision answers and this one refuses counts against it too.
            "errors": (
                Series("longshore_requests_failed_total"),
                Series("longshore_requests_refused_total"),
            ),
            "slow": (Series("longshore_requests_over_objective_total"),),
            "executions": (Series("nv_inference_exec_count"),),
            "rows": (Series("nv_inference_count"),),
            "queue_seconds": (Series("longshore_queue_time_seconds_total"),),
            "compute_seconds": (Series("longshore_compute_time_seconds_total"),),
            "request_seconds": (Series("nv_inference_request_duration_us", 1e-6),),
            "pending": (Series("nv_inference_pending_request_count"),),
            "in_flight": (Series("longshore_requests_in_flight"),),
            "open_streams": (Series("longshore_streams"),),
            "cpu_seconds": (Series("process_cpu_seconds_total"),),
            "workers": (Series("longshore_workers_ready"),),
            **COPIES,
        },
    )

    def refuses(self, serving: Serving) -> str | None:
        """Nothing in `serving` is beyond this runtime."""
        return None

    def container(self, wanted: ContainerInput) -> dict[str, Any]:
        """Build the container of `longshore-server`; its readiness includes a real inference."""
        batching = wanted.serving.batching
        arguments = {
            "--model": MODEL_PATH,
            "--name": wanted.model_name,
            "--http-port": str(HTTP_PORT),
            "--grpc-port": str(GRPC_PORT),
            "--max-batch-size": str(batching.max_size),
            "--queue-size": str(batching.queue or DEFAULT_QUEUE),
            "--drain-delay": str(DRAIN_SECONDS),
            "--grace-period": str(GRACE_SECONDS - 2),
        }
        if batching.max_size == 1:
            arguments["--batching"] = "off"
        if wanted.serving.latency_objective:
            arguments["--latency-objective-ms"] = f"{seconds(wanted.serving.latency_objective) * 1000:g}"
        variables = {"HOME": "/tmp"}  # noqa: S108 (the pod's own emptyDir)
        if wanted.mirror_target:
            variables |= {
                "LONGSHORE_SERVER_MIRROR_TARGET": wanted.mirror_target,
                "LONGSHORE_SERVER_MIRROR_KEY": wanted.mirror_key,
            }
        return {
            "name": "server",
            "image": wanted.settings.server_image,
            "args": [word for pair in arguments.items() for word in pair],
            "env": environment(variables),
            "ports": [
                {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
                {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            ],
            "startupProbe": http_probe("/v2/health/ready", HTTP_PORT, period=1, failures=900),
            "readinessProbe": http_probe("/v2/health/ready", HTTP_PORT, period=2, failures=2),
            "livenessProbe": http_probe("/v2/health/live", HTTP_PORT, period=10, failures=6),
        }

    def volumes(self, wanted: ContainerInput) -> list[dict[str, Any]]:
        """Nothing beyond the model."""
        return []

    def grace_period(self, serving: Serving) -> int:
        """Give the seconds between SIGTERM and SIGKILL."""
        return GRACE_SECONDS


RUNTIME = OnnxRuntime()
