"""OpenVINO's intermediate representation: `model.xml` with its weights in `model.bin`."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from longshore_optimizer.exports.base import ExportWork, Format, Runner

Array = NDArray[Any]


class OpenVino(Format):
    """Writes the graph at the precision that it has."""

    runtime = f"openvino {version('openvino')}"

    def write(self, work: ExportWork) -> Path:
        """Read and save."""
        target = work.out / "model.xml"
        # Core reads ONNX as convert_model does, without its telemetry.
        graph = openvino.Core().read_model(str(work.model))
        openvino.save_model(graph, str(target), compress_to_fp16=False)
        return target

    def runner(self, written: Path, work: ExportWork) -> Runner:
        """Compile for the CPU, in float32 where the graph says so."""
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": work.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = core.compile_model(str(written), "CPU", settings)
        request = compiled.create_infer_request()

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            given = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
            answer = request.infer(given)
            return [np.array(answer[output]) for output in compiled.outputs]

        return run
