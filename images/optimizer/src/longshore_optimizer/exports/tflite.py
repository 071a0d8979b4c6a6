"""TFLite for Android, iOS, microcontrollers and Coral: in float32, in half precision, or in int8.

Images are taken as TFLite's runtimes lay them out: channels come last in inputs of three and more axes.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from longshore_optimizer.exports import edge_tpu
from longshore_optimizer.exports.base import (
    LEAST_AGREEMENT_INT8,
    ExportWork,
    Format,
    MissingDataError,
    Runner,
)
from longshore_optimizer.measure.session import open_session
from longshore_optimizer.techniques import onnxfile, prepare

Array = NDArray[Any]


class TfLite(Format):
    """Writes float32 through onnx2tf; runs with the LiteRT interpreter."""

    precision = "float32"
    runtime = f"ai-edge-litert {version('ai-edge-litert')}"

    def __init__(self) -> None:
        self._fixed = False

    def write(self, work: ExportWork) -> Path:
        """Convert in a scratch folder, and keep the file of this precision.

        Free sizes stay free where onnx2tf can convert the model so; else they become those of one sample.
        """
        target = work.out / "model.tflite"
        try:
            self._write(work, target, fixed=False)
        except Exception:  # noqa: BLE001 - converters raise anything on sizes that they cannot compute with
            self._write(work, target, fixed=True)
            self._fixed = True
        return target

    def notes(self, written: Path, work: ExportWork) -> tuple[str, ...]:
        """Say where sizes are fixed."""
        del written
        sizes = ", ".join(f"{n} {'x'.join(map(str, a.shape))}" for n, a in work.sample.items())
        return (f"sizes are fixed, as those of one sample: {sizes}",) if self._fixed else ()

    def _write(self, work: ExportWork, target: Path, *, fixed: bool) -> None:
        with _converted(work, fixed=fixed) as (scratch, _):
            (written,) = scratch.glob(f"*_{self.precision}.tflite")
            written.replace(target)

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
                interpreter.set_tensor(places[name]["index"], _stored(array, places[name]))
            interpreter.invoke()
            found = [_restored(interpreter.get_tensor(d["index"]), d) for d in outputs.values()]
            return [np.moveaxis(a, -1, 1) if r > 2 else a for a, r in zip(found, ranks, strict=True)]

        return run


class TfLiteFloat16(TfLite):
    """Weights in half precision; inputs and outputs stay in float32."""

    precision = "float16"


class TfLiteInt8(TfLite):
    """Full integer: weights, activations, inputs and outputs in int8, calibrated on the user's data.

    Batches have one sample and all sizes are constant, as accelerators of integers ask for. Weights of
    convolutions are quantized per channel, by the specification of
    https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
    """

    least_agreement = LEAST_AGREEMENT_INT8
    from_float = True

    def write(self, work: ExportWork) -> Path:
        """Convert to TensorFlow, then quantize with the ranges that the calibration data shows.

        Raises:
            MissingDataError: there is no calibration data.
        """
        if not work.calibration:
            raise MissingDataError("full-integer needs calibration data: add optimize.calibration")
        if any(a.dtype != np.float32 for a in work.sample.values()):
            raise ValueError("full-integer takes float32 inputs alone: use TFLite for this model")
        target = work.out / "model.tflite"
        with _converted(work, fixed=True) as (_, model):
            target.write_bytes(_quantized(model, work))
        return target

    def notes(self, written: Path, work: ExportWork) -> tuple[str, ...]:
        """Say what the Edge TPU would leave to the CPU."""
        return (f"calibrated on {len(work.calibration)} samples", edge_tpu.report(written))


@contextmanager
def _converted(work: ExportWork, *, fixed: bool) -> Iterator[tuple[Path, Any]]:
    """Convert with onnx2tf; gives the folder of what it wrote, and the Keras model."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import onnx2tf
    from onnx2tf import onnx2tf as converter

    # It would fetch photographs to look at its own intermediate results; noise does.
    converter.download_test_image_data = _noise
    scratch = work.out / ".scratch"
    try:
        scratch.mkdir()
        _simplify(work, scratch / "model.onnx", fixed=fixed)
        keras = onnx2tf.convert(
            input_onnx_file_path=str(scratch / "model.onnx"),
            output_folder_path=str(scratch),
            not_use_onnxsim=True,
            non_verbose=True,
        )
        yield scratch, keras
    except SystemExit as error:
        # onnx2tf ends the process where it cannot convert.
        raise RuntimeError("onnx2tf cannot convert an operator of the model") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _simplify(work: ExportWork, target: Path, *, fixed: bool) -> None:
    """Write the model with names that TensorFlow takes and, where `fixed`, with the sizes of one sample."""
    model = onnx.load(work.model)
    for node in model.graph.node:
        node.name = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", node.name)
    if fixed:
        for value in model.graph.input:
            if value.name in work.sample:
                sizes = value.type.tensor_type.shape.dim
                for place, size in zip(sizes, work.sample[value.name].shape, strict=True):
                    place.dim_value = size
        # What was inferred for other sizes would contradict these.
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        model = prepare.slim(onnx.shape_inference.infer_shapes(model, data_prop=True))
    onnxfile.save(model, target)


def _quantized(model: Any, work: ExportWork) -> bytes:
    import tensorflow as tf

    inputs = [tf.TensorSpec(i.shape, i.dtype, name=i.name.split(":")[0]) for i in model.inputs]
    function = tf.function(lambda *given: model(list(given) if len(given) > 1 else given[0]))
    names = list(work.sample)

    def samples() -> Iterator[list[Array]]:
        for feeds in work.calibration:
            yield [_channels_last(feeds[name]) for name in names]

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(*inputs)], model
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    # No float operators: what has no integer form is refused, not mixed in.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    written: bytes = converter.convert()
    return written


def _stored(array: Array, detail: Any) -> Array:
    """An input as the file takes it: q = x / scale + zero point where that is quantized."""
    scale, zero = detail["quantization"]
    kind = np.dtype(detail["dtype"])
    if kind.kind not in "iu" or not scale:
        return array.astype(kind, copy=False)
    limits = np.iinfo(kind)
    rounded: Array = np.clip(np.rint(array / scale + zero), limits.min, limits.max)
    return rounded.astype(kind)


def _restored(array: Array, detail: Any) -> Array:
    scale, zero = detail["quantization"]
    if array.dtype.kind not in "iu" or not scale:
        return np.array(array)
    return (array.astype(np.float32) - np.float32(zero)) * np.float32(scale)


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
