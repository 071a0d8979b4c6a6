"""The only place that opens ONNX Runtime sessions: telemetry off, threads bounded, options as the
server's."""

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from longshore_optimizer.data import TensorSpec
from longshore_optimizer.measure.cpu import cpu_flags, has_vnni

ort.disable_telemetry_events()

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint64)": "uint64",
    "tensor(uint32)": "uint32",
    "tensor(uint16)": "uint16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}

_ERRORS_ONLY, _FATAL_ONLY = 3, 4


def open_session(path: Path, threads: int, *, optimize: bool = True) -> ort.InferenceSession:
    """Open a model on the CPU with `threads` intra-op threads.

    Threads do not spin, neither here nor where models are served: sessions of other processes, and what else
    a small CPU limit is for, would be slowed by them.
    """
    if has_vnni(cpu_flags()):
        return _open(path, threads, optimize=optimize, precise=False)
    try:
        return _open(path, threads, optimize=optimize, precise=True)
    except Exception:  # noqa: BLE001 - of ONNX Runtime's errors; it cannot do so for every graph that it runs
        return _open(path, threads, optimize=optimize, precise=False)


def _open(path: Path, threads: int, *, optimize: bool, precise: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY if precise else _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI, sums of products of all 8 bits saturate in silence; weights of 7 bits cost nothing by it.
    # With AMX, where they do not, the same setting takes four times as long.
    options.add_session_config_entry("session.x64quantprecision", "1" if precise else "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def tensor_specs(arguments: Sequence[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    """Describe inputs or outputs; raises ValueError for one that is no tensor of a supported type."""
    specs = []
    for argument in arguments:
        if argument.type not in _DTYPES:
            raise ValueError(f"{argument.name!r} has type {argument.type}, which cannot be served")
        symbols = tuple(d if isinstance(d, (int, str)) else None for d in argument.shape or [])
        shape = tuple(d if isinstance(d, int) and d >= 0 else None for d in symbols)
        specs.append(TensorSpec(argument.name, _DTYPES[argument.type], shape, symbols))
    return tuple(specs)
