"""Completes a user's own `config.pbtxt`: what it says is kept, what contradicts the model is named."""

import re
from collections.abc import Iterator

from longshore_triton import modelconfig
from longshore_triton.backends import PLATFORMS
from longshore_triton.curve import BatchPlan
from longshore_triton.errors import StartError
from longshore_triton.generate import add_accelerator, add_batching, add_instances, describe
from longshore_triton.modelconfig import ModelConfig, type_of
from longshore_triton.probe import Facts
from longshore_triton.tensors import Signature, Tensor, is_dynamic
from longshore_triton.wanted import Wanted

_NOT_FIELDS = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#[^\n]*')
"""Strings and comments of the text form."""


def complete(
    text: str,
    generated: ModelConfig | None,
    signature: Signature | None,
    facts: Facts,
    batches: BatchPlan,
    wanted: Wanted,
    name: str,
    backend: str | None,
) -> ModelConfig:
    """Complete a configuration.

    Args:
        text: the user's `config.pbtxt`.
        generated: what would have been written without it; None where the signature is not known.
        signature: of the model; None where its format is read by Triton only.
        facts: what running it told.
        batches: sizes to run together.
        wanted: what the operator asks for.
        name: the model's name in every protocol.
        backend: that the model's files ask for.

    Raises:
        StartError: the text cannot be read, or contradicts the model; every contradiction is named.
    """
    config = modelconfig.parse(text, f"{modelconfig.FILE} of model {name}")
    problems = list(_contradictions(config, text, signature, facts, wanted, backend))
    if problems:
        raise StartError(
            "ConfigContradictsModel",
            f"{modelconfig.FILE} of model {name} contradicts what it describes: {'; '.join(problems)}; "
            "correct the file, or remove what Longshore can fill in by itself",
        )
    config.name = name
    if not config.backend:
        config.backend = PLATFORMS.get(config.platform, "") or backend or ""
    if config.backend == "ensemble":
        config.backend, config.platform = "", "ensemble"
        return config
    if generated is not None and signature is not None:
        if not _says(text, "max_batch_size"):
            config.max_batch_size = _batch_size(config, generated, signature)
        _add_tensors(config, signature)
    batched = config.max_batch_size > 0
    if batched and not config.HasField("dynamic_batching") and not config.HasField("sequence_batching"):
        add_batching(config, batches, wanted)
    if not config.instance_group:
        add_instances(config, facts, wanted)
    if not config.HasField("optimization"):
        add_accelerator(config, wanted)
    if not config.HasField("version_policy"):
        config.version_policy.latest.num_versions = wanted.latest_versions
    if wanted.cache_bytes and not config.HasField("response_cache"):
        config.response_cache.enable = True
    if generated is not None and not config.model_warmup and batched == (generated.max_batch_size > 0):
        fitting = (s for s in generated.model_warmup if s.batch_size <= max(1, config.max_batch_size))
        config.model_warmup.extend(fitting)
    return config


def _contradictions(
    config: ModelConfig,
    text: str,
    signature: Signature | None,
    facts: Facts,
    wanted: Wanted,
    backend: str | None,
) -> Iterator[str]:
    said = config.backend or PLATFORMS.get(config.platform, "")
    if said and backend and said != backend and said != "ensemble" and backend != "python":
        yield f"it says backend {said} and the files are of {backend}"
    most = config.max_batch_size
    if most < 0:
        yield f"max_batch_size is {most}"
    if most > 0 and signature is not None and not facts.batches:
        yield f"max_batch_size is {most} and the model takes no batch: it must be 0"
    if _says(text, "max_batch_size") and most == 0 and config.HasField("dynamic_batching"):
        yield "dynamic_batching needs a max_batch_size above 0"
    for size in config.dynamic_batching.preferred_batch_size:
        if most and size > most:
            yield f"preferred_batch_size {size} is above max_batch_size {most}"
    for group in config.instance_group:
        if group.kind == modelconfig.kind("GPU") and not wanted.gpus:
            yield (
                "instance_group wants a GPU and the pod has none: ask for nvidia.com/gpu in "
                "serving.resources.limits"
            )
        if any(gpu >= wanted.gpus for gpu in group.gpus) and wanted.gpus:
            yield f"instance_group names GPU {max(group.gpus)} and the pod has {wanted.gpus}, counted from 0"
        if wanted.instances and group.count and group.count != wanted.instances:
            yield f"instance_group says count {group.count} and serving.triton.instances {wanted.instances}"
    if signature is not None:
        yield from _tensors("input", config.input, signature.inputs, most, text)
        yield from _tensors("output", config.output, signature.outputs, most, text)


def _tensors(what: str, said: ModelConfig, there: tuple[Tensor, ...], most: int, text: str) -> Iterator[str]:
    by_name = {tensor.name: tensor for tensor in there}
    for one in said:
        tensor = by_name.get(one.name)
        if tensor is None:
            yield f"{what} {one.name} is not in the model, whose {what}s are {', '.join(by_name)}"
            continue
        dtype = modelconfig.dtype_of(one.data_type)
        if dtype not in ("INVALID", tensor.dtype):
            yield f"{what} {one.name} is {dtype} there and {tensor.dtype} in the model"
        dims = list(one.reshape.shape) if one.HasField("reshape") else list(one.dims)
        full = len(tensor.shape)
        if most > 0 or not _says(text, "max_batch_size"):
            skip = 1 if most > 0 or len(dims) == full - 1 else 0
        else:
            skip = 0
        inner = tensor.shape[skip:]
        if dims and len(dims) != len(inner):
            batch = f" beside the batch (max_batch_size {most})" if most > 0 else " (max_batch_size 0)"
            yield f"{what} {one.name} has {len(dims)} dimensions there and {len(inner)} in the model{batch}"
        elif any(s >= 0 and not is_dynamic(m) and s != m for s, m in zip(dims, inner, strict=False)):
            model = [-1 if is_dynamic(m) else m for m in inner]
            yield f"{what} {one.name} has dims {dims} there and {model} in the model"


def _batch_size(config: ModelConfig, generated: ModelConfig, signature: Signature) -> int:
    """Choose `max_batch_size` so that the dims that the user wrote are right."""
    ranks = {tensor.name: len(tensor.shape) for tensor in (*signature.inputs, *signature.outputs)}
    if any(len(t.dims) == ranks.get(t.name) for t in (*config.input, *config.output)):
        return 0
    return int(generated.max_batch_size)


def _add_tensors(config: ModelConfig, signature: Signature) -> None:
    """Add every input that is missing, the outputs where none is said, and types and dims left out."""
    skip = 1 if config.max_batch_size > 0 else 0
    for said, there in ((config.input, signature.inputs), (config.output, signature.outputs)):
        given = {tensor.name: tensor for tensor in said}
        for tensor in there:
            one = given.get(tensor.name)
            if one is None:
                if said is config.input or not given:
                    describe(said.add(), tensor, skip)
                continue
            if not one.data_type:
                one.data_type = type_of(tensor.dtype)
            if not one.dims:
                describe(one, tensor, skip)


def _says(text: str, field: str) -> bool:
    """Tell whether a field is written out: 0 and absent are the same in a protocol buffer."""
    return re.search(rf"\b{field}\s*:", _NOT_FIELDS.sub(" ", text)) is not None
