"""What a model takes and gives, in the words of the Open Inference Protocol."""

from dataclasses import dataclass

Dimension = int | str | None
"""A size; a name or None where it is dynamic."""

ITEM_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 64,
}
"""Bytes of one element of each data type; for BYTES a guess that sizes are estimated with."""


@dataclass(frozen=True)
class Tensor:
    """One input or output; `dtype` is one of `ITEM_BYTES`."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True)
class Signature:
    """Everything a model takes and gives; batch dimensions included."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def is_dynamic(dimension: Dimension) -> bool:
    """Tell whether a dimension has no fixed size; negative sizes are the other way to write that."""
    return not isinstance(dimension, int) or dimension < 0


def leads_with_batch(signature: Signature) -> bool:
    """Tell whether every input and output may have a batch as its first dimension."""
    tensors = (*signature.inputs, *signature.outputs)
    return bool(signature.inputs and signature.outputs) and all(
        tensor.shape and is_dynamic(tensor.shape[0]) for tensor in tensors
    )


def surely_batches(signature: Signature) -> bool:
    """Tell whether the names of the first dimensions prove that they are one and the same."""
    if not leads_with_batch(signature):
        return False
    names = {tensor.shape[0] for tensor in (*signature.inputs, *signature.outputs)}
    # Some exporters write "?" for every size that they do not know.
    return len(names) == 1 and names.isdisjoint({None, "?", ""})
