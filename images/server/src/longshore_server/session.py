"""The only module that knows ONNX Runtime: loads one model file and runs it on numpy arrays."""

import contextlib
import ctypes
import io
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The Linux wheels of ONNX Runtime 1.29 and newer report to their maker while they are imported. Only this
# variable stops that: the function below stops what comes later.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort

from longshore_server.cpu import sums_saturate
from longshore_server.dtypes import BF16, BY_ONNX_TYPE, BYTES, Array, Datatype
from longshore_server.errors import ExitCode, RequestError, StartupError, backend_failed, bad_request
from longshore_server.providers import FULL_NAMES, NVIDIA, PACKAGES, SHORT_NAMES
from longshore_server.providers import options as provider_options

ort.disable_telemetry_events()

_log = logging.getLogger(__name__)
# What the runtime would log as an error it also raises.
_NO_TENSORRT = "Please install TensorRT libraries"
"""In the runtime's error where libnvinfer is missing; without CUDA it leaves the provider out instead."""
_LOG_FATAL_ONLY = 4


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model: `shape` has -1 where a dimension may vary.

    `symbols` has the dimension's name in the model where it has one: equal names are equal sizes.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session is made: `providers` in order of preference, `threads` inside one operator."""

    providers: tuple[str, ...] = ("cpu",)
    threads: int = 1


class Session:
    """One loaded ONNX model. `run` may be called from any one thread at a time.

    `operators` counts the operators of the model by the execution provider that runs them; empty where only
    the CPU was asked for, and where the runtime (older than 1.24) does not tell.
    """

    def __init__(self, file: Path, options: SessionOptions) -> None:
        """Load `file`.

        Raises `StartupError` for a provider that is absent and a model that cannot run here.
        """
        self._session = _load(file, options)
        inputs = tuple(_spec(node) for node in self._session.get_inputs())
        outputs = tuple(_spec(node) for node in self._session.get_outputs() if node.type in BY_ONNX_TYPE)
        if missing := [node for node in self._session.get_inputs() if node.type not in BY_ONNX_TYPE]:
            raise _unservable(file, f"its input {missing[0].name} is a {missing[0].type}, not a tensor")
        if not outputs:
            raise _unservable(file, "none of its outputs is a tensor")
        self.left_out = tuple(
            f"{node.name} ({node.type})"
            for node in self._session.get_outputs()
            if node.type not in BY_ONNX_TYPE
        )
        self.signature = Signature(inputs, outputs)
        self.operators = _placement(self._session, options.providers)
        self._input_names = [spec.name for spec in inputs]
        self._output_names = [spec.name for spec in outputs]
        self._bits = any(spec.datatype is BF16 for spec in (*inputs, *outputs))
        # The inner object's `run` leaves out the argument checks that the server has already made.
        self._run = self._session._sess.run

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run on C-contiguous arrays, in the signature's order; returns the outputs in the signature's order.

        Numeric outputs are backed by the runtime's own memory: nothing is copied. Raises `RequestError`.
        """
        try:
            if self._bits:
                return self._run_on_bits(inputs)
            return self._run(self._output_names, dict(zip(self._input_names, inputs, strict=True)), None)  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 - the runtime's errors share no base class
            raise _run_failure(error) from None

    def _run_on_bits(self, inputs: Sequence[Array]) -> list[Array]:
        """The same for models with bfloat16, which numpy lacks: values cross as tagged 16-bit integers."""
        feeds = {}
        for spec, array in zip(self.signature.inputs, inputs, strict=True):
            value = (
                ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BF16.onnx)
                if spec.datatype is BF16
                else ort.OrtValue.ortvalue_from_numpy(array)
            )
            feeds[spec.name] = value._ortvalue
        values = self._session._sess.run_with_ort_values(feeds, self._output_names, None)
        return [
            _copy_bits(value) if spec.datatype is BF16 else value.numpy()
            for spec, value in zip(self.signature.outputs, values, strict=True)
        ]


def check_providers(providers: Sequence[str]) -> None:
    """Raise `StartupError` when the installed runtime lacks one of `providers`."""
    available = ort.get_available_providers()
    for provider in providers:
        if FULL_NAMES[provider] not in available:
            has = ", ".join(name for name, full in FULL_NAMES.items() if full in available)
            package = PACKAGES.get(provider, "onnxruntime")
            raise StartupError(
                ExitCode.PROVIDER_ABSENT,
                f"execution provider {provider} was asked for, but this ONNX Runtime has only {has}: "
                f"use the image variant with {package}, or --provider {has.split(', ')[0]}",
            )


def runtime_version() -> str:
    """The version of ONNX Runtime."""
    return str(ort.__version__)


def _load(file: Path, options: SessionOptions) -> Any:
    check_providers(options.providers)
    if not NVIDIA.isdisjoint(options.providers):
        _load_cuda()
    if options.providers != ("cpu",) or not sums_saturate():
        return _open(file, options, precise=False)
    try:
        return _open(file, options, precise=True)
    except StartupError:
        # Which it cannot do for every graph that it runs.
        session = _open(file, options, precise=False)
    _log.warning(
        "this CPU has no VNNI, and %s cannot be run with precise products of 8 bits: "
        "sums of them may saturate; quantize with weights of 7 bits (reduce_range)",
        file.name,
    )
    return session


def _open(file: Path, options: SessionOptions, *, precise: bool) -> Any:
    wanted = [FULL_NAMES[provider] for provider in options.providers]
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _LOG_FATAL_ONLY
    # Threads that spin between requests take the event loop's share of a small CPU limit.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A CPU without VNNI answers as those that have it, on which a model may have been proven: its sums of
    # products of all 8 bits saturate in silence otherwise. With AMX, where they do not, it takes four times
    # as long.
    settings.add_session_config_entry("session.x64quantprecision", "1" if precise else "0")
    if set(options.providers) != {"cpu"}:
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    given = [provider_options(provider, options.threads) for provider in options.providers]
    try:
        # Without its own fallback, which would serve on the CPU what another provider has failed to load.
        session = ort.InferenceSession(
            str(file), settings, providers=wanted, provider_options=given, enable_fallback=False
        )
    except Exception as error:  # noqa: BLE001 - the runtime's errors share no base class
        if "tensorrt" in options.providers and _NO_TENSORRT in str(error):
            raise _not_started(FULL_NAMES["tensorrt"]) from None
        raise _load_failure(file, error) from None
    if absent := [provider for provider in wanted if provider not in session.get_providers()]:
        raise _not_started(absent[0])
    return session


def _not_started(provider: str) -> StartupError:
    return StartupError(
        ExitCode.PROVIDER_ABSENT,
        f"{provider} is installed but did not start (the driver or its libraries are missing): "
        "run on a node that has them, or choose --provider cpu",
    )


def _load_cuda() -> None:
    """Load CUDA from NVIDIA's Python packages: the runtime itself looks in the system's folders only."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    if text := " ".join(said.getvalue().split()):
        _log.warning("CUDA's libraries are incomplete: %s", text[:600])


def _placement(session: Any, providers: Sequence[str]) -> dict[str, int]:
    if set(providers) == {"cpu"} or not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    found: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        found[SHORT_NAMES.get(part.ep_name, part.ep_name)] += len(part.get_nodes())
    return dict(found)


def _spec(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    symbols = tuple(size if isinstance(size, str) else "" for size in node.shape)
    return TensorSpec(node.name, BY_ONNX_TYPE.get(node.type, BYTES), shape, symbols)


def _unservable(file: Path, why: str) -> StartupError:
    return StartupError(
        ExitCode.BAD_MODEL,
        f"{file} cannot be served: {why}; export it with tensors only (for scikit-learn: zipmap=False)",
    )


def _load_failure(file: Path, error: Exception) -> StartupError:
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if kind in ("InvalidGraph", "NotImplemented", "Fail") and (
        "No Op" in text or "is not a registered" in text
    ):
        step = f"ONNX Runtime {ort.__version__} lacks an operator it needs: export to a standard operator set"
    elif kind == "NotImplemented":
        step = "this runtime lacks a kernel it needs: export with other types, or use another provider"
    elif kind == "InvalidProtobuf":
        step = "the file is truncated or no ONNX model: fetch or export it again"
    else:
        step = "check the model with onnx.checker and export it again"
    return StartupError(ExitCode.BAD_MODEL, f"cannot load {file}: {text[:600]}; {step}")


def _run_failure(error: Exception) -> RequestError:
    text = " ".join(str(error).split())[:1000]
    if type(error).__name__ == "InvalidArgument":
        return bad_request(f"the model refuses this input: {text}")
    if isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate" in text:
        return backend_failed("out of memory while running the model: send smaller tensors or batches")
    return backend_failed(f"the model failed on this input: {text}")


def _copy_bits(value: Any) -> Array:
    shape = value.shape()
    size = int(np.prod(shape, dtype=np.int64)) * BF16.itemsize
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size), np.uint16).reshape(shape)
