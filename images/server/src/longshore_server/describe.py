"""What the server says about itself and its model, as the Open Inference Protocol and its extensions shape
it.
"""

from typing import Any

from longshore_server.dtypes import BYTES
from longshore_server.served import ServedModel
from longshore_server.session import TensorSpec

EXTENSIONS = ("binary_tensor_data", "classification", "statistics", "model_configuration", "model_repository")
SERVER = "longshore-server"
PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


def server(version: str) -> dict[str, Any]:
    """The server's metadata."""
    return {"name": SERVER, "version": version, "extensions": list(EXTENSIONS)}


def model(served: ServedModel) -> dict[str, Any]:
    """The model's metadata."""
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": PLATFORM,
        "inputs": [tensor(spec) for spec in served.signature.inputs],
        "outputs": [tensor(spec) for spec in served.signature.outputs],
    }


def tensor(spec: TensorSpec) -> dict[str, Any]:
    """One input or output."""
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}


def index_entry(name: str, version: str, ready: bool) -> dict[str, Any]:
    """One model in the repository's index."""
    return {"name": name, "version": version, "state": "READY" if ready else "UNAVAILABLE", "reason": ""}


def config(served: ServedModel) -> dict[str, Any]:
    """The model configuration extension, for clients that ask for batching and shapes."""
    batched = served.max_batch_size > 0

    def entry(spec: TensorSpec) -> dict[str, Any]:
        kind = "TYPE_STRING" if spec.datatype is BYTES else f"TYPE_{spec.datatype.name}"
        return {"name": spec.name, "data_type": kind, "dims": list(spec.shape[1:] if batched else spec.shape)}

    document: dict[str, Any] = {
        "name": served.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": served.max_batch_size,
        "input": [entry(spec) for spec in served.signature.inputs],
        "output": [entry(spec) for spec in served.signature.outputs],
    }
    if batched:
        document["dynamic_batching"] = {}
    return document


def statistics(served: ServedModel) -> dict[str, Any]:
    """The statistics extension: counts, and cumulative times in nanoseconds."""
    totals = served.metrics.totals()
    successes = totals.successes

    def duration(count: int, ns: int) -> dict[str, int]:
        return {"count": count, "ns": ns}

    return {
        "model_stats": [
            {
                "name": served.name,
                "version": served.version,
                "last_inference": totals.last_inference_ms,
                "inference_count": totals.rows,
                "execution_count": totals.batches,
                "inference_stats": {
                    "success": duration(successes, totals.request_ns),
                    "fail": duration(totals.failures, 0),
                    "queue": duration(successes, totals.queue_ns),
                    "compute_input": duration(successes, totals.input_ns),
                    "compute_infer": duration(successes, totals.infer_ns),
                    "compute_output": duration(successes, totals.output_ns),
                    "cache_hit": duration(0, 0),
                    "cache_miss": duration(0, 0),
                },
                "batch_stats": [],
            }
        ]
    }
