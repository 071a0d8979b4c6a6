"""What tf2onnx leaves to do: operators of TensorFlow's that it passes through, zero points that it shares.

The formulas are those of Hendrycks and Gimpel, "Gaussian Error Linear Units" (arXiv:1606.08415).
"""

import math

import onnx
from onnx import helper


def replace(graph: onnx.GraphProto) -> None:
    """Write out every `Erfc` and TFLite `GELU`, exact and by tanh, in place."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Erfc":
            nodes += _Formula(node).erfc()
        elif node.op_type == "TFL_GELU":
            approximate = any(a.name.lower() == "approximate" and a.i for a in node.attribute)
            nodes += _Formula(node).gelu(approximate=approximate)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def own_zero_points(graph: onnx.GraphProto) -> None:
    """Give every `DequantizeLinear` a zero point of its own.

    ONNX Runtime cannot take products precisely on CPUs without VNNI where layers share one.
    """
    stored = {i.name: i for i in graph.initializer}
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.input[2] not in stored:
            continue
        point = node.input[2]
        if point in seen:
            copy = graph.initializer.add()
            copy.CopyFrom(stored[point])
            copy.name = node.input[2] = f"{point}/{number}"
        seen.add(point)


class _Formula:
    """Arithmetic on one node's input; constants take the type of that input."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self._x, self._out = node.input[0], node.output[0]
        self._nodes: list[onnx.NodeProto] = []

    def erfc(self) -> list[onnx.NodeProto]:
        self._add("Sub", self._constant(1.0), self._add("Erf", self._x), out=self._out)
        return self._nodes

    def gelu(self, *, approximate: bool) -> list[onnx.NodeProto]:
        x = self._x
        if approximate:
            cubed = self._add("Mul", x, self._add("Mul", x, x))
            inner = self._add("Add", x, self._add("Mul", cubed, self._constant(0.044715)))
            gate = self._add("Tanh", self._add("Mul", inner, self._constant(math.sqrt(2 / math.pi))))
        else:
            gate = self._add("Erf", self._add("Mul", x, self._constant(math.sqrt(0.5))))
        half = self._add("Mul", x, self._constant(0.5))
        self._add("Mul", half, self._add("Add", gate, self._constant(1.0)), out=self._out)
        return self._nodes

    def _constant(self, value: float) -> str:
        name = self._name()
        self._nodes.append(helper.make_node("Constant", [], [name], value_float=value))
        return self._add("CastLike", name, self._x)

    def _add(self, operator: str, *inputs: str, out: str = "") -> str:
        name = out or self._name()
        self._nodes.append(helper.make_node(operator, inputs, [name]))
        return name

    def _name(self) -> str:
        return f"{self._out}/formula{len(self._nodes)}"
