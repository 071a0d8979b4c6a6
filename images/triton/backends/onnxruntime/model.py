"""Triton's backend `onnxruntime` on the Python package of the same name, for images without the native one.

Triton's Python backend loads this file for every model whose configuration says `backend: "onnxruntime"`. It
reads the same parameters as the native backend (intra_op_thread_count, inter_op_thread_count), and
`joined_rows`: most rows of several requests that run together.
"""

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy
import onnxruntime
import triton_python_backend_utils as utils

_TELL_EVERY = 0.5
"""Seconds between reports of the counters: each is a message to the server's process."""


class Counter:
    """A counter among the server's metrics that Triton itself does not keep."""

    def __init__(
        self, name: str, description: str, labels: dict[str, str], every: float = _TELL_EVERY
    ) -> None:
        self._family = utils.MetricFamily(name=name, description=description, kind=utils.MetricFamily.COUNTER)
        self._metric = self._family.Metric(labels=labels)
        self._every = every
        self._untold = 0.0
        self._told_at = time.monotonic()

    def add(self, value: float) -> None:
        """Count; what came within the last moment is told with the next run."""
        self._untold += value
        now = time.monotonic()
        if now - self._told_at >= self._every:
            if self._untold:
                self._metric.increment(self._untold)
            self._untold, self._told_at = 0.0, now


def _sums_saturate() -> bool:
    """Tell whether this is an x86 CPU without VNNI, or one that cannot be known."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return True
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def _open(path: Path, options: Any) -> Any:
    """Open a model; without VNNI, sums of products of all 8 bits saturate in silence unless told otherwise.

    The runtime cannot do so for every graph that it runs; weights of 7 bits cost nothing by it. With AMX,
    where sums do not saturate, the same setting takes four times as long.
    """
    if not _sums_saturate():
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    plainly = options.log_severity_level
    try:
        options.log_severity_level = 4
        options.add_session_config_entry("session.x64quantprecision", "1")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - the runtime's errors share no base class
        options.log_severity_level = plainly
        options.add_session_config_entry("session.x64quantprecision", "0")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; an error here is the server's message why the model cannot be loaded."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        if (
            args["model_instance_kind"] == "GPU"
            and "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
        ):
            raise utils.TritonModelException("this image has ONNX Runtime for the CPU only")
        accelerators = config.get("optimization", {}).get("execution_accelerators", {})
        if accelerators.get("cpu_execution_accelerator") or accelerators.get("gpu_execution_accelerator"):
            raise utils.TritonModelException("this image has ONNX Runtime without accelerators")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 1))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 1))
        options.log_severity_level = 3
        name = config.get("default_model_filename") or "model.onnx"
        # Data beside the model is found by the real place of the file.
        path = Path(args["model_repository"], args["model_version"], name).resolve()
        self._session = _open(path, options)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._ranks = {value.name: len(value.shape) for value in self._session.get_inputs()}
        self._batched = config["max_batch_size"] > 0
        self._most = int(parameters.get("joined_rows", 0))
        self._objective = int(parameters.get("objective_us", 0)) / 1e6
        labels = {"model": args["model_name"], "version": args["model_version"]}
        # Triton counts the time of a batch once for each of its requests.
        self._compute_time = Counter(
            "longshore_compute_time_seconds_total", "Time in the model by batch, cumulative", labels
        )
        # Triton counts a request as answered well even where a Python model answers it with an error.
        self._failures = Counter(
            "longshore_requests_failed_total", "Requests that the model failed on", labels, every=0.0
        )
        self._slow = Counter(
            "longshore_requests_over_objective_total", "Requests that ran longer than the objective", labels
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests; those of equal shapes run together."""
        answers: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = {}
        feeds: list[dict[str, Any]] = []
        for index, request in enumerate(requests):
            try:
                tensors = {t.name(): self._shaped(t) for t in request.inputs()}
            except UnicodeDecodeError as error:
                answers[index] = _failed(f"a string is not valid UTF-8: {error}")
                feeds.append({})
                continue
            feeds.append(tensors)
            # Without a batch dimension requests cannot be joined.
            key = tuple((n, v.shape[1:]) for n, v in sorted(tensors.items())) if self._batched else (index,)
            groups.setdefault(key, []).append(index)
        for members in groups.values():
            for part in self._parts(feeds, members):
                self._run(requests, feeds, part, answers)
        return answers

    def _parts(self, feeds: list[dict[str, Any]], members: list[int]) -> list[list[int]]:
        """Divide requests so that none are joined beyond `joined_rows`; a larger one runs alone."""
        if not self._batched or not self._most:
            return [members]
        parts: list[list[int]] = []
        rows = 0
        for i in members:
            own = next(iter(feeds[i].values())).shape[0]
            if not parts or rows + own > self._most:
                parts.append([])
                rows = 0
            parts[-1].append(i)
            rows += own
        return parts

    def _shaped(self, tensor: Any) -> Any:
        value = tensor.as_numpy()
        if value.dtype == numpy.object_:
            value = numpy.array([text.decode() for text in value.ravel()], numpy.object_).reshape(value.shape)
        rank = self._ranks.get(tensor.name(), value.ndim)
        return value.reshape(value.shape[:rank]) if value.ndim > rank else value

    def _run(
        self, requests: Sequence[Any], feeds: list[dict[str, Any]], members: list[int], answers: list[Any]
    ) -> None:
        if len(members) == 1:
            joined = feeds[members[0]]
        else:
            joined = {name: numpy.concatenate([feeds[i][name] for i in members]) for name in self._inputs}
        begun = time.perf_counter()
        try:
            values = self._session.run(self._outputs, joined)
        except Exception as error:  # noqa: BLE001 (ONNX Runtime has no base class for its errors)
            self._failures.add(len(members))
            for i in members:
                answers[i] = _failed(str(error))
            return
        took = time.perf_counter() - begun
        self._compute_time.add(took)
        self._slow.add(len(members) if self._objective and took > self._objective else 0)
        begin = 0
        for i in members:
            end = begin + (next(iter(feeds[i].values())).shape[0] if self._batched else 0)
            asked = set(requests[i].requested_output_names())
            answers[i] = utils.InferenceResponse(
                [
                    utils.Tensor(name, _contiguous(value[begin:end] if self._batched else value))
                    for name, value in zip(self._outputs, values, strict=True)
                    if name in asked
                ]
            )
            begin = end


def _failed(message: str) -> Any:
    return utils.InferenceResponse([], utils.TritonError(message))


def _contiguous(value: Any) -> Any:
    value = numpy.asarray(value)
    if value.dtype.kind in "UO":
        texts = [text.encode() for text in value.ravel()]
        return numpy.array(texts, numpy.object_).reshape(value.shape)
    return numpy.ascontiguousarray(value)
