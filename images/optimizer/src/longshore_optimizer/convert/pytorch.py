"""PyTorch models through torch.onnx: `torch.export` archives, TorchScript, and weights with their factory.

Weights alone (a `state_dict` or safetensors) say nothing about the network; the factory named beside them
builds it.
"""

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longshore_optimizer.convert import arguments, exported_program, torchscript_operators
from longshore_optimizer.convert.arguments import BATCH, Argument, Material
from longshore_optimizer.convert.factory import build
from longshore_optimizer.convert.parity import judge
from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.convert.registry import Order
from longshore_optimizer.convert.sidebyside import run_both
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import content

Array = NDArray[Any]

_OPSET = 18
_LARGEST_FILE = 1_800_000_000
"""Bytes of weights above which they go to a file of their own: protobuf ends at 2 GiB."""


@dataclass(frozen=True)
class Loaded:
    """A model that can be called, what torch.onnx takes of it, and its inputs in order."""

    call: Any
    exported: Any
    arguments: tuple[Argument, ...]


def convert(order: Order) -> Converted:
    """Load, convert and compare; writes ONNX to `order.out`.

    Raises:
        Problem: PickleNotAllowed, InvalidModel, InvalidRequest, ConversionFailed or ParityFailed.
    """
    if not order.allow_pickle:
        # torch.load then restores tensors and plain containers only, wherever it is called from.
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        loaded = _load(order)
        answer = _answer(loaded)
        material = arguments.material(loaded.arguments, order.samples, answer, "torch.export.save")
        first, most = _first_answer(loaded, material)
        rows = _export(loaded, material, order, _output_names(first), most)
        differences, count = run_both(answer, order.out, material, rows)
    return judge("PyTorch", count, differences)


def _load(order: Order) -> Loaded:
    try:
        if order.container == content.TORCH_EXPORT:
            program = exported_program.load(order.model)
            call = exported_program.Call(program)
            return Loaded(call, program, call.arguments)
        if order.container == content.TORCHSCRIPT:
            module = torch.jit.load(str(order.model), map_location="cpu").eval()
            return Loaded(module, module, _schema(module))
    except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        text = " ".join(str(error).split())[:300]
        raise Problem(
            Reason.INVALID_MODEL, f"PyTorch cannot read {order.model.name} ({text}): save the model again"
        ) from error
    network = _network(order)
    return Loaded(network, network, _parameters(network))


def _schema(module: Any) -> tuple[Argument, ...]:
    parameters = module.forward.schema.arguments[1:]
    return tuple(Argument(p.name) for p in parameters if not p.has_default_value())


def _parameters(network: torch.nn.Module) -> tuple[Argument, ...]:
    import inspect

    found = inspect.signature(network.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(Argument(p.name) for p in found if p.kind in kinds and p.default is p.empty)


def _network(order: Order) -> torch.nn.Module:
    weights: object
    if order.container == content.SAFETENSORS:
        from safetensors.torch import load_file

        weights = load_file(order.model)
    else:
        weights = _unpickled(order)
    if isinstance(weights, torch.nn.Module):
        return weights.eval()
    if isinstance(weights, Mapping) and isinstance(weights.get("state_dict"), Mapping):
        weights = weights["state_dict"]
    if not isinstance(weights, Mapping) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise Problem(
            Reason.INVALID_MODEL,
            f"{order.model.name} holds a {type(weights).__name__}, neither a module nor its state_dict: save "
            "the model with torch.export.save",
        )
    if order.factory is None:
        raise Problem(
            Reason.INVALID_REQUEST,
            f"{order.model.name} holds weights without the network they belong to: name what builds it "
            "(model.factory, --factory model.py:build), or save the model with torch.export.save",
        )
    network = build(order.factory, order.model.parent, torch.nn.Module, allow_code=order.allow_pickle)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise Problem(
            Reason.INVALID_MODEL,
            f"the weights do not fit what {order.factory} builds ({text}): name the factory of the network "
            "that they were saved from",
        ) from error
    found: torch.nn.Module = network.eval()
    return found


def _unpickled(order: Order) -> object:
    try:
        # Weights for a factory are plain tensors: nothing else is restored then.
        return torch.load(order.model, map_location="cpu", weights_only=order.factory is not None)
    except (pickle.UnpicklingError, AttributeError, ModuleNotFoundError, EOFError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        raise Problem(
            Reason.INVALID_MODEL,
            f"the pickle cannot be loaded ({type(error).__name__}: {text}): your own classes are not here; "
            "save the model with torch.export.save, or its state_dict with a factory beside it",
        ) from error


def _first_answer(loaded: Loaded, material: Material) -> tuple[Any, int]:
    """Call the model with a few rows, or with one where it takes no more; gives how many it was."""
    if material.dataset.count >= BATCH:
        try:
            return loaded.call(*(torch.from_numpy(a) for a in material.example(BATCH))), BATCH
        except (RuntimeError, ValueError, AssertionError):
            pass
    return loaded.call(*(torch.from_numpy(a) for a in material.example(1))), 1


def _output_names(answer: Any) -> list[str]:
    """Keys of a mapping that the model gives, else `output`, numbered where there are several."""
    leaves = _leaves(answer)
    if isinstance(answer, Mapping) and len(answer) == len(leaves):
        return [str(key) for key in answer]
    return ["output"] if len(leaves) == 1 else [f"output_{number}" for number in range(len(leaves))]


def _export(loaded: Loaded, material: Material, order: Order, outputs: list[str], most: int) -> int | None:
    """Write ONNX; gives the batch size that it is bound to, None where any up to `most` will do."""
    names = [a.name for a in loaded.arguments]
    if order.container == content.TORCH_EXPORT:
        program = torch.onnx.export(
            loaded.exported, dynamo=True, input_names=names, output_names=outputs, verbose=False
        )
        _save(program, order)
        return None if most > 1 else 1
    failure: Exception | None = None
    for rows in dict.fromkeys((most, 1)):
        example = tuple(torch.from_numpy(a) for a in material.example(rows))
        try:
            if order.container == content.TORCHSCRIPT:
                _trace(loaded.exported, example, names, outputs, order, free=rows > 1)
            else:
                axes = tuple({0: torch.export.Dim("batch")} for _ in names) if rows > 1 else None
                program = torch.onnx.export(
                    loaded.exported,
                    example,
                    dynamo=True,
                    input_names=names,
                    output_names=outputs,
                    dynamic_shapes=axes,
                    opset_version=_OPSET,
                    verbose=False,
                )
                _save(program, order)
        except Exception as error:  # noqa: BLE001 - any failure of the exporter leads to a fixed batch of 1
            failure = error
        else:
            return None if rows > 1 else 1
    raise failure if failure is not None else ValueError("no samples")


def _trace(
    module: Any, example: tuple[Any, ...], names: list[str], outputs: list[str], order: Order, *, free: bool
) -> None:
    torchscript_operators.register()
    torch.onnx.export(
        module,
        example,
        str(order.out),
        dynamo=False,
        input_names=names,
        output_names=outputs,
        dynamic_axes={n: {0: "batch"} for n in (*names, *outputs)} if free else None,
        opset_version=torchscript_operators.OPSET,
    )


def _save(program: Any, order: Order) -> None:
    size = sum(int(np.prod(v.shape)) * 4 for v in program.model.graph.initializers.values())
    symbols = {d.value for i in program.model.graph.inputs for d in (i.shape or ())[:1] if _free(d)}
    if len(symbols) == 1:
        # Exported programs call a free axis s0 or s77; readers of the model's signature expect a word.
        (symbol,) = symbols
        for value in (*program.model.graph.inputs, *program.model.graph.outputs):
            if value.shape is not None:
                value.shape = type(value.shape)(
                    ["batch" if _free(d) and d.value == symbol else d for d in value.shape]
                )
    program.save(str(order.out), external_data=size > _LARGEST_FILE)


def _free(dimension: Any) -> bool:
    return isinstance(getattr(dimension, "value", None), str)


def _leaves(answer: Any) -> list[Any]:
    """What an answer holds, in order; attention without its weights gives None in their place."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(answer) if leaf is not None]


def _answer(loaded: Loaded) -> Callable[..., list[Array]]:
    def answer(*part: Array) -> list[Array]:
        leaves = _leaves(loaded.call(*(torch.from_numpy(p) for p in part)))
        # A size among the answers is a plain number.
        return [np.asarray(v.detach().cpu() if isinstance(v, torch.Tensor) else v) for v in leaves]

    return answer
