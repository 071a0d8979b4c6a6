"""The ONNX model as a PyTorch program of aten operators alone, which PyTorch's exports start from.

Sizes are those of one sample, as phones are given programs without free dimensions.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch.fx.experimental.proxy_tensor import make_fx

from longshore_optimizer.exports.base import ExportWork
from longshore_optimizer.techniques import onnxfile, prepare
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.torch_graph import TorchGraph

Array = NDArray[Any]


@dataclass(frozen=True)
class Program:
    """Takes tensors in the order of `inputs` and gives those of `outputs`, in the sizes of `sample`."""

    module: torch.fx.GraphModule
    sample: tuple[torch.Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def tensors(self, feeds: Mapping[str, Array]) -> tuple[torch.Tensor, ...]:
        """Feeds in the order of the inputs."""
        return tuple(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self.inputs)


def program(work: ExportWork) -> Program:
    """Trace the model on one sample.

    Raises:
        ValueError: an operator that this version cannot write in PyTorch.
    """
    torch.set_num_threads(work.threads)
    model = prepare.slim(prepare.upgrade(onnxfile.load(work.model)))
    weights = {i.name for i in model.graph.initializer}
    inputs = tuple(i.name for i in model.graph.input if i.name not in weights)
    outputs = tuple(o.name for o in model.graph.output)
    if any(o.type.tensor_type.elem_type == TensorProto.STRING for o in model.graph.output):
        raise ValueError("PyTorch has no strings, which an output of the model gives")
    try:
        graph = TorchGraph(model, outputs).eval()
        sample = tuple(torch.from_numpy(np.ascontiguousarray(work.sample[name])) for name in inputs)

        def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(graph(dict(zip(inputs, tensors, strict=True)), outputs))

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = make_fx(call)(*sample)
    except NotApplicableError as error:
        text = str(error).replace("cannot be trained here", "cannot be written in PyTorch by this version")
        raise ValueError(f"{text}: use TFLite, Ort or OpenVINO") from error
    for parameter in traced.parameters():
        parameter.requires_grad_(False)
    return Program(traced.eval(), sample, inputs, outputs)
