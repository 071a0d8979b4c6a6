"""`python -m longshore_triton.measure MODEL CORES MOST`: runs an ONNX model, prints what it learnt.

The answer is JSON. A process of its own, for a hostile or broken model may take it down. It needs ONNX
Runtime and NumPy, which the start itself does not.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longshore_triton.onnxfile import read_signature
from longshore_triton.tensors import Signature, Tensor, is_dynamic, leads_with_batch

BUDGET = 0.4
"""Seconds for the batch curve."""

SIZES = (1, 8, 16, 32, 48, 64, 128, 224, 256, 320, 640)
"""What dynamic dimensions are tried with: sequences are short, images have the usual sides."""


def measure(model: Path, cores: int, most: int, budget: float = BUDGET) -> dict[str, Any]:
    """Run the model and tell `batches`, `sizes`, `seconds` and `points`; see `longshore_triton.probe.Facts`.

    Raises:
        Exception: whatever ONNX Runtime raises for a model that it cannot load.
    """
    import onnxruntime

    signature = read_signature(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    may_batch = leads_with_batch(signature)
    inner = [d for t in signature.inputs for d in t.shape[1 if may_batch else 0 :]]
    for sizes in SIZES if any(map(is_dynamic, inner)) else (1,):
        answer = _run(session, signature, 1, sizes, may_batch)
        if answer is not None:
            break
    else:
        return {"batches": False, "sizes": None, "seconds": None, "points": []}
    batches = (
        may_batch and _keeps_rows(answer, 1) and _keeps_rows(_run(session, signature, 3, sizes, True), 3)
    )
    points = list(_curve(session, signature, sizes, most if batches else 1, batches, budget))
    return {
        "batches": batches,
        "sizes": sizes,
        "seconds": points[0][1] if points else None,
        "points": points if batches else [],
    }


def _keeps_rows(answer: list[Any] | None, rows: int) -> bool:
    return answer is not None and all(getattr(o, "ndim", 0) > 0 and o.shape[0] == rows for o in answer)


def _curve(
    session: Any, signature: Signature, sizes: int, most: int, batched: bool, budget: float
) -> Iterator[tuple[int, float]]:
    end = time.perf_counter() + budget
    rows = 1
    while rows <= most:
        feeds = _feeds(signature, rows, sizes, batched)
        session.run(None, feeds)
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            session.run(None, feeds)
            best = min(best, time.perf_counter() - begin)
            if time.perf_counter() > end:
                break
        yield rows, best
        if time.perf_counter() > end or (rows < most < rows * 2 and rows == most):
            return
        rows = most if rows < most < rows * 2 else rows * 2


def _run(session: Any, signature: Signature, rows: int, sizes: int, batched: bool) -> list[Any] | None:
    try:
        answer: list[Any] = session.run(None, _feeds(signature, rows, sizes, batched))
    except Exception:  # noqa: BLE001 (ONNX Runtime has no base class for what a shape may do to it)
        return None
    return answer


def _feeds(signature: Signature, rows: int, sizes: int, batched: bool) -> dict[str, Any]:
    return {tensor.name: _zeros(tensor, rows, sizes, batched) for tensor in signature.inputs}


def _zeros(tensor: Tensor, rows: int, sizes: int, batched: bool) -> Any:
    import numpy

    shape = [sizes if is_dynamic(size) else size for size in tensor.shape]
    if batched:
        shape[0] = rows
    if tensor.dtype == "BYTES":
        return numpy.full(shape, "", dtype=object)
    if tensor.dtype == "BF16":
        raise TypeError("NumPy has no bfloat16")
    names = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
    return numpy.zeros(shape, dtype=names.get(tensor.dtype, tensor.dtype.lower()))


def main() -> int:
    """Measure the model named on the command line."""
    model, cores, most = sys.argv[1:4]
    sys.stdout.write(json.dumps(measure(Path(model), int(cores), int(most))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
