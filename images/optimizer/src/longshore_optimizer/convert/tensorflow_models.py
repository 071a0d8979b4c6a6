"""Keras files and TensorFlow SavedModels through tf2onnx, compared with TensorFlow's own answers."""

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from longshore_optimizer.convert import arguments, tensorflow_graph
from longshore_optimizer.convert.arguments import Argument
from longshore_optimizer.convert.parity import judge
from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.convert.registry import Order
from longshore_optimizer.convert.sidebyside import run_both
from longshore_optimizer.convert.tensorflow_operators import own_zero_points, replace
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import content

Array = NDArray[Any]

OPSET = 18
SAVE_WITH = "model.export as a SavedModel with an input signature"
_SIGNATURE = "serving_default"
_REACHES_OUT = frozenset(
    {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "PrintV2"}
)
"""Operations with which a graph reads or writes files of the node, or calls Python."""


@dataclass(frozen=True)
class Loaded:
    """A function of tensors in the order of `arguments`, giving a tensor for each name of `outputs`."""

    framework: str
    function: Callable[..., Mapping[str, Any]]
    arguments: tuple[Argument, ...]
    outputs: tuple[str, ...]


def convert(order: Order) -> Converted:
    """Load, convert and compare; writes ONNX to `order.out`.

    Raises:
        Problem: PickleNotAllowed, InvalidModel, ConversionFailed or ParityFailed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf = start_tensorflow()
        loaded = _saved_model(tf, order) if order.container == content.SAVED_MODEL else _keras(order)
        function = tf.function(loaded.function)

        def answer(*part: Array) -> list[Array]:
            found = function(*(tf.constant(p) for p in part))
            return [np.asarray(found[name]) for name in loaded.outputs]

        material = arguments.material(loaded.arguments, order.samples, answer, SAVE_WITH)
        _export(tf, loaded, function, order.out)
        differences, count = run_both(answer, order.out, material, None)
    return judge(loaded.framework, count, differences)


def start_tensorflow() -> Any:
    """Import TensorFlow: quiet, on one core of the CPU, with Keras on top of it."""
    os.environ |= {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_USE_LEGACY_KERAS": "0",
    }
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def save(model: onnx.ModelProto, out: Path) -> None:
    """Write what tf2onnx made, with a free first axis called `batch`.

    Raises:
        Problem: ConversionFailed for an operation that ONNX has no counterpart for.
    """
    replace(model.graph)
    own_zero_points(model.graph)
    foreign = {n.op_type for n in model.graph.node if n.domain not in ("", "ai.onnx", "ai.onnx.ml")}
    unknown = foreign | {n.op_type for n in model.graph.node if n.op_type not in foreign and not _known(n)}
    if unknown:
        raise Problem(
            Reason.CONVERSION_FAILED,
            f"the model uses operations without an ONNX counterpart ({', '.join(sorted(unknown)[:5])}): "
            "leave them out of the exported signature, as pre- and post-processing usually can be",
        )
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        if len(axes) and not axes[0].HasField("dim_value"):
            axes[0].dim_param = "batch"
    onnx.save_model(model, str(out))


def _known(node: onnx.NodeProto) -> bool:
    return bool(onnx.defs.has(node.op_type, node.domain if node.domain != "ai.onnx" else ""))


def _export(tf: Any, loaded: Loaded, function: Any, out: Path) -> None:
    specs = [tf.TensorSpec(a.shape, a.dtype, name=a.name) for a in loaded.arguments]
    model = tensorflow_graph.to_onnx(tf, function, specs, OPSET)
    # TensorFlow sorts a mapping of outputs by name; the source's own order is what its users know.
    by_name = {o.name: o for o in list(model.graph.output)}
    if by_name.keys() == set(loaded.outputs):
        del model.graph.output[:]
        model.graph.output.extend(by_name[name] for name in loaded.outputs)
    save(model, out)


def _keras(order: Order) -> Loaded:
    import keras

    suffix = ".keras" if order.container == content.KERAS_ZIP else ".h5"
    with tempfile.TemporaryDirectory() as folder:
        # Keras tells its formats apart by the suffix alone.
        path = Path(folder) / f"model{suffix}"
        path.symlink_to(order.model.resolve())
        try:
            network = keras.saving.load_model(path, compile=False, safe_mode=not order.allow_pickle)
        except (ValueError, TypeError, OSError, KeyError, AttributeError, ImportError) as error:
            raise _unreadable(order, error) from error
    inputs = getattr(network, "inputs", None)
    if not inputs:
        raise Problem(
            Reason.INVALID_MODEL,
            f"{order.model.name} does not tell what its inputs are: save it with {SAVE_WITH}",
        )
    names = list(getattr(network, "output_names", None) or [])
    count = len(network.outputs)
    if len(set(names)) != count:
        names = ["output"] if count == 1 else [f"output_{number}" for number in range(count)]

    def call(*tensors: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        found = tf.nest.flatten(network(list(tensors) if len(tensors) > 1 else tensors[0], training=False))
        return dict(zip(names, found, strict=True))

    given = tuple(_argument(t.name, t.dtype, tuple(t.shape)) for t in inputs)
    return Loaded("Keras", call, given, tuple(names))


def _unreadable(order: Order, error: Exception) -> Problem:
    text = " ".join(str(error).split())
    if not order.allow_pickle and ("safe_mode" in text or "unsafe" in text.lower()):
        return Problem(
            Reason.PICKLE_NOT_ALLOWED,
            f"{order.model.name} holds a Lambda layer, which is Python code: put a layer of Keras in its "
            f"place, save it with {SAVE_WITH}, or set allowPickle (--allow-pickle) if you trust the file",
        )
    if "No model config found" in text or "model_config" in text:
        return Problem(
            Reason.INVALID_MODEL,
            f"{order.model.name} holds weights without their network: save the whole model (model.save)",
        )
    if "Could not locate" in text or "not registered" in text:
        return Problem(
            Reason.INVALID_MODEL,
            f"{order.model.name} uses classes that are not here ({text[:200]}): save it with {SAVE_WITH}",
        )
    return Problem(
        Reason.INVALID_MODEL, f"Keras cannot read {order.model.name} ({text[:300]}): save the model again"
    )


def _saved_model(tf: Any, order: Order) -> Loaded:
    if not order.allow_pickle:
        _check_graph(order.model)
    try:
        model = tf.saved_model.load(str(order.model))
        signatures = dict(model.signatures)
    except (ValueError, OSError, KeyError, AttributeError, tf.errors.OpError) as error:
        text = " ".join(str(error).split())[:300]
        raise Problem(
            Reason.INVALID_MODEL,
            f"TensorFlow cannot load {order.model.name} ({text}): save the model again, whole",
        ) from error
    if _SIGNATURE not in signatures and len(signatures) != 1:
        known = f"it has {', '.join(sorted(signatures)[:5])}" if signatures else "it has none"
        raise Problem(
            Reason.INVALID_MODEL,
            f"the SavedModel has no signature {_SIGNATURE!r} ({known}): save it with model.export, or with "
            f"signatures={{{_SIGNATURE!r}: function}}",
        )
    signature = signatures.get(_SIGNATURE) or next(iter(signatures.values()))
    # A SavedModel keeps them in no order: the one here is the same whenever it is converted.
    specs = dict(sorted(signature.structured_input_signature[1].items(), key=_numbered))
    outputs = tuple(name for name, _ in sorted(signature.structured_outputs.items(), key=_numbered))

    def call(*tensors: Any) -> Mapping[str, Any]:
        # Naming the model keeps its variables alive: the signature alone does not.
        assert model is not None
        found: Mapping[str, Any] = signature(**dict(zip(specs, tensors, strict=True)))
        return found

    given = tuple(
        _argument(name, s.dtype.name, tuple(s.shape) if s.shape.rank is not None else None)
        for name, s in specs.items()
    )
    return Loaded("TensorFlow", call, given, outputs)


def _numbered(item: tuple[str, object]) -> list[tuple[int, str]]:
    """By name, `output_2` before `output_10`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", item[0])]


def _check_graph(directory: Path) -> None:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        parsed = SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise Problem(
            Reason.INVALID_MODEL, f"{directory.name}/saved_model.pb cannot be read: save the model again"
        ) from error
    used: set[str] = set()
    for part in parsed.meta_graphs:
        used |= {n.op for n in part.graph_def.node}
        used |= {n.op for f in part.graph_def.library.function for n in f.node_def}
    if found := sorted(used & _REACHES_OUT):
        raise Problem(
            Reason.PICKLE_NOT_ALLOWED,
            f"the SavedModel's graph reaches out of itself ({', '.join(found)}): export a signature without "
            "these operations, or set allowPickle (--allow-pickle) if you trust the model",
        )


def _argument(name: str, dtype: str, shape: tuple[int | None, ...] | None) -> Argument:
    try:
        known = np.dtype(dtype).kind in "fiub"
    except TypeError:
        known = False
    if not known:
        raise Problem(
            Reason.CONVERSION_FAILED,
            f"the input {name!r} is of type {dtype}, not of numbers: export a signature behind the "
            "preprocessing",
        )
    return Argument(name, dtype, shape)
