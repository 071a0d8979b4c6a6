"""The exporting process: writes, runs and compares one.

A format's libraries stay out of the process that decides, and their crashes too.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from longshore.api.optimize import Export
from longshore.artifact.base import Wire
from numpy.typing import NDArray
from onnx import TensorProto

from longshore_optimizer import made_up
from longshore_optimizer.convert.lockdown import deny_network
from longshore_optimizer.convert.parity import compare
from longshore_optimizer.data import Dataset, TensorSpec, batches, read
from longshore_optimizer.exports.base import Exported, Exporter, ExportWork, MissingDataError, Runner
from longshore_optimizer.exports.registry import exporter
from longshore_optimizer.measure.protocol import Failure, Request
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.metrics import agreement

Feeds = dict[str, NDArray[Any]]

_MOST_CALIBRATION = 256
_NOT_PLAIN = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
        "If",
        "Loop",
        "Scan",
    }
)
_TIMED_SECONDS = 0.5
_MAKING_UP = 60.0
"""Seconds for finding sizes with which the model runs."""


def export(request: Request) -> Exported:
    """Write the format that the request names, and compare it with the ONNX model on the same samples."""
    format_ = exporter(Export(request["export"]))
    served, original = Path(request["model"]), Path(request["original"])
    # Where the served model is no float graph, some formats start from the original.
    from_original = format_.from_float and served != original and not plain_float(served)
    model = original if from_original else served
    threads = int(request["threads"])
    session = open_session(model, threads)
    inputs = tensor_specs(session.get_inputs())
    if request.get("data"):
        dataset = read(Path(request["data"]), "evaluation", inputs).head(format_.most_samples)
    else:
        dataset = _made_up(inputs, session, int(request["seed"]))
    feeds: list[Feeds] = [dict(b.feeds) for b in batches(dataset, inputs, 1)]
    calibration: list[Feeds] = []
    if request.get("calibration"):
        given = read(Path(request["calibration"]), "calibration", inputs).head(_MOST_CALIBRATION)
        calibration = [dict(b.feeds) for b in batches(given, inputs, 1)]
    work = ExportWork(model, Path(request["out"]), threads, feeds[0], calibration)
    work.out.mkdir(parents=True, exist_ok=True)
    written = format_.write(work)
    run = format_.runner(written, work)
    if isinstance(run, str):
        return _exported(format_, written, work, from_original, {"not_compared": run})
    wanted = [session.run(None, f) for f in feeds]
    try:
        compared = _compared([o.name for o in session.get_outputs()], wanted, [run(f) for f in feeds])
        agreed = compared["agreement"]
        latencies = format_.latencies(written, work) or _latencies(run, feeds)
    except Exception as error:
        if (left := format_.withdraw(work, str(error))) is None:
            raise
        return _exported(format_, written, work, from_original, {"not_compared": left})
    if not agreed >= format_.least_agreement:
        why = (
            f"it answers differently: agreement {agreed:.4f} on {len(wanted)} samples, "
            f"{format_.least_agreement:g} is asked for"
        )
        if (left := format_.withdraw(work, why)) is not None:
            return _exported(format_, written, work, from_original, {"not_compared": left})
    timed = {"p50_ms": float(np.percentile(latencies, 50)), "p95_ms": float(np.percentile(latencies, 95))}
    found = {"samples": len(wanted), **timed, **compared}
    return _exported(format_, written, work, from_original, found)


def _made_up(inputs: Sequence[TensorSpec], session: Any, seed: int) -> Dataset:
    deadline = time.monotonic() + _MAKING_UP
    found = made_up.find(
        inputs, lambda feeds: session.run(None, feeds), seed, lambda: deadline - time.monotonic()
    )
    if found is None:
        raise MissingDataError("the model cannot be run on made-up inputs: give calibration data")
    return found


def _exported(
    format_: Exporter, written: Path, work: ExportWork, from_original: bool, found: dict[str, Any]
) -> Exported:
    """Answer with the files that are there."""
    files = sorted(p for p in work.out.rglob("*") if p.is_file())
    return Exported(
        files=tuple(str(p.relative_to(work.out)) for p in files),
        size_bytes=sum(p.stat().st_size for p in files),
        least_agreement=format_.least_agreement,
        runtime=format_.runtime,
        from_original=from_original,
        notes=format_.notes(written, work),
        **found,
    )


def plain_float(model: Path) -> bool:
    """Whether a graph computes in float32 alone: nothing quantized, no half precision, no branches."""
    graph = onnx.load(model, load_external_data=False).graph
    if any(t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for t in graph.initializer):
        return False
    return not any(
        n.op_type in _NOT_PLAIN or n.op_type.startswith("QLinear") or n.domain not in ("", "ai.onnx")
        for n in graph.node
    )


def _latencies(run: Runner, feeds: list[Feeds]) -> list[float]:
    latencies: list[float] = []
    deadline = time.perf_counter() + _TIMED_SECONDS
    while len(latencies) < len(feeds) or time.perf_counter() < deadline:
        started = time.perf_counter()
        run(feeds[len(latencies) % len(feeds)])
        latencies.append((time.perf_counter() - started) * 1000)
        if time.perf_counter() > deadline and len(latencies) >= 3:
            break
    return latencies


def _compared(names: list[str], wanted: list[list[Any]], found: list[list[Any]]) -> dict[str, float]:
    absolute = relative = 0.0
    scores = []
    for first, second in zip(wanted, found, strict=True):
        if len(first) != len(second):
            raise ValueError(f"the export gives {len(second)} outputs, the model {len(first)}")
        pairs = {
            n: (np.atleast_1d(np.asarray(a)), np.atleast_1d(np.asarray(b)))
            for n, a, b in zip(names, first, second, strict=True)
        }
        for name, (a, b) in pairs.items():
            difference = compare(name, a, b)
            absolute = max(absolute, difference.absolute)
            relative = max(relative, difference.relative)
        scores.append(
            float(
                agreement(
                    {n: a[None] for n, (a, _) in pairs.items()},
                    {n: b.reshape(a.shape)[None].astype(a.dtype) for n, (a, b) in pairs.items()},
                )[0]
            )
        )
    return {
        "max_absolute_error": absolute,
        "max_relative_error": relative,
        "agreement": float(np.mean(scores)),
    }


def main() -> None:
    """Answer one request; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("900")
    for line in sys.stdin:
        request = json.loads(line)
        # Nothing here needs the network, and some converters tell their makers about each run. CUDA may reach
        # its GPU through a server on the same node (MPS), by a socket in the file system.
        with suppress(OSError):
            deny_network(but_local=request.get("export") == Export.TENSORRT)
        answer: Wire
        try:
            answer = export(request)
        except MemoryError:
            answer = Failure(error="out of memory", kind="MemoryError")
        except Exception as error:  # noqa: BLE001 - whatever a library raises is an answer, not a crash
            traceback.print_exc(file=sys.stderr)
            answer = Failure(error=str(error) or type(error).__name__, kind=type(error).__name__)
        answers.write(answer.model_dump_json(by_alias=True) + "\n")
        answers.flush()
