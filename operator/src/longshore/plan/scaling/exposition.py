"""From a pod's `/metrics` text to a `PodSample`: only the lines that scaling needs are looked at.

Longshore's own server and Triton share the `nv_inference_*` names
(https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md); where Longshore's
server says the same more exactly, its `longshore_*` name wins.
"""

import re

from longshore.plan.scaling.inputs import PodSample

_NAMES = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_pending_request_count",
    "nv_gpu_utilization",
    "DCGM_FI_DEV_GPU_UTIL",
    "longshore_requests_total",
    "longshore_requests_over_objective_total",
    "longshore_requests_in_flight",
    "longshore_streams",
    "longshore_compute_time_seconds_total",
    "longshore_workers_ready",
    "process_cpu_seconds_total",
)
_LINE = re.compile(
    rb"^(" + "|".join(_NAMES).encode() + rb")(\{[^\n]*\})? +([^ \n]+)(?: +-?[0-9]+)?\r?$", re.MULTILINE
)
MAX_BYTES = 4 << 20
"""Longer answers are cut: scaling reads some twenty lines."""


def sample_of(text: bytes, pod: str, revision: str, at: float) -> PodSample:
    """Read one scrape; series of the same name are summed, utilizations averaged.

    A value that is no number becomes NaN, which the planner reports and leaves out.
    """
    values: dict[bytes, list[float]] = {}
    for name, _labels, number in _LINE.findall(text[:MAX_BYTES]):
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        values.setdefault(name, []).append(value)

    def total(name: str, scale: float = 1.0) -> float | None:
        found = values.get(name.encode())
        return sum(found) * scale if found else None

    answered = total("longshore_requests_total")
    success, failure = total("nv_inference_request_success"), total("nv_inference_request_failure")
    if answered is None and success is not None:
        answered = success + (failure or 0.0)
    runs = total("nv_inference_exec_count")
    compute = total("longshore_compute_time_seconds_total")
    infer = total("nv_inference_compute_infer_duration_us", 1e-6)
    if compute is None and infer is not None and runs is not None and success:
        # Triton counts a batch's time once for each request in it.
        compute = infer * runs / max(success, runs)
    gpus = values.get(b"DCGM_FI_DEV_GPU_UTIL") or [
        share * 100 for share in values.get(b"nv_gpu_utilization", ())
    ]
    return PodSample(
        pod=pod,
        revision=revision,
        at=at,
        requests=answered,
        succeeded=success,
        executions=runs,
        rows=total("nv_inference_count"),
        queue_seconds=total("nv_inference_queue_duration_us", 1e-6),
        compute_seconds=compute,
        request_seconds=total("nv_inference_request_duration_us", 1e-6),
        slow=total("longshore_requests_over_objective_total"),
        cpu_seconds=total("process_cpu_seconds_total"),
        pending=total("nv_inference_pending_request_count"),
        in_flight=total("longshore_requests_in_flight"),
        open_streams=total("longshore_streams"),
        gpu_percent=sum(gpus) / len(gpus) if gpus else None,
        workers=total("longshore_workers_ready") or None,
    )
