"""TFLite for Android, iOS and microcontrollers: in float32, or with weights in half precision.

Images are taken as TFLite's runtimes lay them out: channels come last in inputs of three and more axes.
"""

import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer.exports.base import ExportWork, Runner
from longshore_optimizer.measure.session import open_session

Array = NDArray[Any]


class TfLite:
    """Writes float32 through onnx2tf; runs with the LiteRT interpreter."""

    precision = "float32"
    runtime = f"ai-edge-litert {version('ai-edge-litert')}"

    def write(self, work: ExportWork) -> Path:
        """Convert in a scratch folder, and keep the file of this precision."""
        os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        import onnx2tf
        from onnx2tf import onnx2tf as converter

        # It would fetch photographs to look at its own intermediate results; noise does.
        converter.download_test_image_data = _noise
        scratch = work.out / ".scratch"
        try:
            onnx2tf.convert(
                input_onnx_file_path=str(work.model),
                output_folder_path=str(scratch),
                not_use_onnxsim=True,
                non_verbose=True,
            )
            target = work.out / "model.tflite"
            (written,) = scratch.glob(f"*_{self.precision}.tflite")
            written.replace(target)
        except SystemExit as error:
            # onnx2tf ends the process where it cannot convert.
            raise RuntimeError("onnx2tf cannot convert an operator of the model") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    def runner(self, written: Path, work: ExportWork) -> Runner:
        """Run with the interpreter, inputs and outputs in the layout of the ONNX model."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(written), num_threads=work.threads)
        session = open_session(work.model, 1)
        names = [i.name for i in session.get_inputs()]
        places = _by_name(interpreter.get_input_details(), names)
        outputs = _by_name(interpreter.get_output_details(), [o.name for o in session.get_outputs()])
        ranks = [len(o.shape or ()) for o in session.get_outputs()]
        shapes: dict[str, tuple[int, ...]] = {}

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            given = {name: _channels_last(feeds[name]) for name in names}
            if {n: a.shape for n, a in given.items()} != shapes:
                for name, array in given.items():
                    interpreter.resize_tensor_input(places[name]["index"], array.shape)
                interpreter.allocate_tensors()
                shapes.update({n: a.shape for n, a in given.items()})
            for name, array in given.items():
                interpreter.set_tensor(places[name]["index"], array.astype(places[name]["dtype"], copy=False))
            interpreter.invoke()
            found = [np.array(interpreter.get_tensor(d["index"])) for d in outputs.values()]
            return [np.moveaxis(a, -1, 1) if r > 2 else a for a, r in zip(found, ranks, strict=True)]

        return run


class TfLiteFloat16(TfLite):
    """Weights in half precision; inputs and outputs stay in float32."""

    precision = "float16"


def _noise() -> Array:
    return np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32)


def _channels_last(array: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if array.ndim > 2 else array)


def _by_name(details: list[Any], names: list[str]) -> dict[str, Any]:
    """Details of each name; those that onnx2tf calls by a name of its own follow in the model's order."""
    told = {str(d["name"]).removeprefix("serving_default_").removesuffix(":0"): d for d in details}
    if set(names) <= told.keys():
        return {name: told[name] for name in names}
    return dict(zip(names, details, strict=True))
