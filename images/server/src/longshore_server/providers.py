"""Execution providers: what ONNX Runtime calls each, which package has it, and the options it is given."""

import json

FULL_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
SHORT_NAMES = {full: short for short, full in FULL_NAMES.items()}
NVIDIA = frozenset({"cuda", "tensorrt"})
"""Those that need CUDA's libraries."""
PACKAGES = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}


def options(provider: str, threads: int) -> dict[str, str]:
    """Options for one provider that is to use `threads` processors.

    OpenVINO has a thread pool of its own, which would take every processor of the node, pin its threads to
    the first ones (as those of each other process do), and may compute in bfloat16 where the processor can:
    other answers than those that the model was tested with. On one thread without exclusive requests it loses
    errors, and gives the answer of an earlier request in place of one (seen with OpenVINO 2025.4.1).
    Properties: docs.openvino.ai, "CPU Device".
    """
    if provider != "openvino":
        return {}
    properties = {
        "ENABLE_CPU_PINNING": "NO",
        "EXCLUSIVE_ASYNC_REQUESTS": "YES",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": properties})}
