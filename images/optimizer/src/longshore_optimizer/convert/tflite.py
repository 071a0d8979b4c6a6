"""TFLite models through tf2onnx, compared with the answers of TensorFlow's interpreter."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from longshore_optimizer.convert import arguments
from longshore_optimizer.convert.arguments import Argument
from longshore_optimizer.convert.parity import judge
from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.convert.registry import Order
from longshore_optimizer.convert.sidebyside import run_both
from longshore_optimizer.convert.tensorflow_models import OPSET, save, start_tensorflow
from longshore_optimizer.errors import Problem, Reason

Array = NDArray[Any]

_STEPS = 3
"""Quantization steps that an output may differ by: the interpreter and ONNX Runtime round each layer their
own way."""


def convert(order: Order) -> Converted:
    """Load, convert and compare; writes ONNX to `order.out`.

    Raises:
        Problem: InvalidModel, ConversionFailed or ParityFailed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf = start_tensorflow()
        try:
            interpreter = tf.lite.Interpreter(str(order.model), num_threads=1)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            raise Problem(
                Reason.INVALID_MODEL, f"TFLite cannot read {order.model.name} ({text}): save the model again"
            ) from error
        model = _Model(interpreter)
        material = arguments.material(model.arguments, order.samples, model.run, "a signature")
        _export(order, model.names)
        outputs = [o.name for o in onnx.load(order.out, load_external_data=False).graph.output]
        differences, count = run_both(
            lambda *part: model.answer(part, outputs),
            order.out,
            material,
            None,
            model.steps(),
        )
    return judge("TFLite", count, differences)


class _Model:
    """An interpreter with its inputs and outputs called as its signature calls them."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self.inputs: list[Any] = interpreter.get_input_details()
        self._outputs: list[Any] = interpreter.get_output_details()
        self.names = self._signature()
        """What the model calls a tensor, to what its users call it."""

    def _signature(self) -> dict[str, str]:
        plain = {d["name"]: d["name"].removesuffix(":0") for d in (*self.inputs, *self._outputs)}
        signatures = list(self._interpreter.get_signature_list())
        if len(signatures) != 1:
            return plain
        runner = self._interpreter.get_signature_runner(signatures[0])
        told = {**runner.get_input_details(), **runner.get_output_details()}
        return plain | {detail["name"]: name for name, detail in told.items()}

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return tuple(
            Argument(
                self.names[d["name"]],
                np.dtype(d["dtype"]).name,
                tuple(None if size < 0 else int(size) for size in d["shape_signature"]),
            )
            for d in self.inputs
        )

    def steps(self) -> Mapping[str, float]:
        """The absolute error to allow for each quantized output, in the values that it gives."""
        result = {}
        quantized = any(
            np.dtype(d["dtype"]).itemsize == 1 and d["quantization"][0]
            for d in self._interpreter.get_tensor_details()
        )
        for detail in self._outputs:
            if np.dtype(detail["dtype"]).kind in "iu" and detail["quantization"][0]:
                result[self.names[detail["name"]]] = float(_STEPS)
            elif quantized:
                result[self.names[detail["name"]]] = _STEPS * self._source_scale(detail)
        return result

    def _source_scale(self, output: Any) -> float:
        """Step of the eight-bit values that a float output was restored from: the scale of the tensor of the
        same shape right before it."""
        scales = [
            float(d["quantization"][0])
            for d in self._interpreter.get_tensor_details()
            if d["quantization"][0]
            and d["index"] < output["index"]
            and list(d["shape"]) == list(output["shape"])
        ]
        return scales[-1] if scales else 0.0

    def run(self, *part: Array) -> None:
        """Run once; inputs take the shapes of the arrays."""
        free = [bool((d["shape_signature"] < 0).any()) for d in self.inputs]
        shapes = [tuple(d["shape"]) for d in self._interpreter.get_input_details()]
        resized = [
            (detail["index"], array.shape)
            for detail, array, shape, may in zip(self.inputs, part, shapes, free, strict=True)
            if may and array.shape != shape
        ]
        for index, shape in resized:
            self._interpreter.resize_tensor_input(index, shape)
        if resized:
            self._interpreter.allocate_tensors()
        for detail, array in zip(self.inputs, part, strict=True):
            self._interpreter.set_tensor(detail["index"], array)
        self._interpreter.invoke()

    def answer(self, part: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run once; gives the outputs in the order of their names."""
        self.run(*part)
        found = {
            self.names[d["name"]]: np.array(self._interpreter.get_tensor(d["index"])) for d in self._outputs
        }
        return [found[name] for name in outputs]


def _export(order: Order, names: Mapping[str, str]) -> None:
    import tf2onnx.convert

    model, _ = tf2onnx.convert.from_tflite(str(order.model), opset=OPSET)
    _rename(model.graph, names)
    save(model, order.out)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    ends = {v.name for v in (*graph.input, *graph.output)}
    wanted = {old: new for old, new in names.items() if old in ends and old != new}
    taken = {name for node in graph.node for name in node.output} | {i.name for i in graph.initializer}
    wanted = {old: new for old, new in wanted.items() if new not in taken}
    for value in (*graph.input, *graph.output):
        value.name = wanted.get(value.name, value.name)
    for node in graph.node:
        for side in (node.input, node.output):
            for place, name in enumerate(side):
                side[place] = wanted.get(name, name)
