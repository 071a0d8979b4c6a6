"""ORT format, which ONNX Runtime's mobile and minimal builds load, and the operators that a build needs.

https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from longshore_optimizer.exports.base import ExportWork, Format, Runner

Array = NDArray[Any]

OPERATORS = "required_operators_and_types.config"
_ERRORS_ONLY = 3


class OrtFormat(Format):
    """Writes `model.ort`, optimized as far as every CPU can run, and the reduced operator configuration."""

    runtime = f"onnxruntime {version('onnxruntime')}"

    def write(self, work: ExportWork) -> Path:
        """Save the optimized graph, then list the operators and types it uses."""
        from onnxruntime.tools.ort_format_model import create_config_from_models

        target = work.out / "model.ort"
        options = _options(1)
        # The layout optimizations above this level fit the CPU that they were made on alone.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.save_model_format", "ORT")
        ort.InferenceSession(str(work.model), options, providers=["CPUExecutionProvider"])
        create_config_from_models([target], work.out / OPERATORS, enable_type_reduction=True)
        config = work.out / OPERATORS
        # The tool writes the path that the model had while it was made.
        config.write_text(config.read_text().replace(str(target), target.name))
        return target

    def runner(self, written: Path, work: ExportWork) -> Runner:
        """Open it as a mobile build does: no optimization, the format given."""
        options = _options(work.threads)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.load_model_format", "ORT")
        session = ort.InferenceSession(str(written), options, providers=["CPUExecutionProvider"])

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            found: list[Array] = session.run(None, dict(feeds))
            return found

        return run


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options
