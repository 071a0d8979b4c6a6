"""Archives of `torch.export`: what they take, how they are called, and types of answers that are not here."""

import json
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from longshore_optimizer.convert.arguments import Argument
from longshore_optimizer.errors import Problem, Reason

_LARGEST_DESCRIPTION = 256 << 20
"""Bytes of an archive's description of its graph that are read."""


def load(path: Path) -> Any:
    """Load a program, also one that answers in a type of its author's library.

    Transformers' models answer in one type each; an archive names it, and PyTorch loads it only where it is
    registered. A stand-in gives a mapping by the field names that the archive tells, else a tuple.
    """
    for name in sorted(_types(path) - set(pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE)):
        _register(name)
    return torch.export.load(path)


class Call:
    """Calls a program with its tensors in their order, whatever was passed by name or is no tensor."""

    def __init__(self, program: Any) -> None:
        """Take the program apart into tensors and constants.

        Raises:
            Problem: ConversionFailed for an input that is neither.
        """
        self._module = program.module()
        self._structure = program.call_spec.in_spec
        self._given: list[object] = []
        self.arguments = tuple(self._arguments(program))

    def __call__(self, *tensors: Any) -> Any:
        """Give the program's own answer."""
        left = iter(tensors)
        flat = [next(left) if value is _TENSOR else value for value in self._given]
        args, kwargs = pytree.tree_unflatten(flat, self._structure)
        return self._module(*args, **kwargs)

    def _arguments(self, program: Any) -> Iterator[Argument]:
        from torch.export.graph_signature import ConstantArgument, InputKind

        nodes = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
        for spec in program.graph_signature.input_specs:
            if spec.kind is not InputKind.USER_INPUT:
                continue
            if isinstance(spec.arg, ConstantArgument):
                self._given.append(spec.arg.value)
                continue
            name = spec.arg.name
            value = nodes[name].meta.get("val") if name in nodes else None
            if not isinstance(value, torch.Tensor):
                raise Problem(
                    Reason.CONVERSION_FAILED,
                    f"the exported program's input {name!r} is no tensor: export a function of tensors alone",
                )
            self._given.append(_TENSOR)
            symbols = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
            shape = tuple(d if isinstance(d, int) else None for d in symbols)
            yield Argument(name, str(value.dtype).removeprefix("torch."), shape, symbols)


_TENSOR = object()


def _register(name: str) -> None:
    stand_in = type(name.rpartition(".")[2] or "Answer", (OrderedDict,), {})

    def flatten(value: Any) -> tuple[list[Any], Any]:
        return list(value.values()), list(value)

    def unflatten(children: Iterable[Any], context: Any) -> Any:
        values = list(children)
        named = isinstance(context, list) and all(isinstance(key, str) for key in context)
        if named and len(context) == len(values):
            return stand_in(zip(context, values, strict=True))
        return tuple(values)

    pytree.register_pytree_node(
        stand_in,
        flatten,
        unflatten,
        serialized_type_name=name,
        to_dumpable_context=json.dumps,
        from_dumpable_context=_context,
    )


def _context(dumped: object) -> object:
    """The field names; None where the author's library wrote something else."""
    try:
        return json.loads(dumped) if isinstance(dumped, str) else None
    except ValueError:
        return None


def _types(path: Path) -> set[str]:
    """Names of the types in the structures of inputs and answers."""
    with zipfile.ZipFile(path) as archive:
        described = [
            info
            for info in archive.infolist()
            if info.filename.endswith(".json") and info.file_size <= _LARGEST_DESCRIPTION
        ]
        return {
            found
            for info in described
            for text in _structures(json.loads(archive.read(info)))
            for found in _named(json.loads(text))
        }


def _structures(value: object) -> Iterator[str]:
    """The serialized structures anywhere in a description."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in ("in_spec", "out_spec") and isinstance(part, str):
                yield part
            else:
                yield from _structures(part)
    elif isinstance(value, list):
        for part in value:
            yield from _structures(part)


def _named(structure: object) -> Iterator[str]:
    if isinstance(structure, Sequence) and not isinstance(structure, str):
        for part in structure:
            yield from _named(part)
    elif isinstance(structure, dict):
        if isinstance(structure.get("type"), str):
            yield structure["type"]
        yield from _named(structure.get("children_spec", []))
