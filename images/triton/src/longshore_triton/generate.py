"""Builds the model configuration from a signature and what the operator asks for."""

from longshore_triton import modelconfig
from longshore_triton.curve import BatchPlan
from longshore_triton.errors import StartError
from longshore_triton.modelconfig import ModelConfig
from longshore_triton.probe import Facts
from longshore_triton.tensors import Signature, Tensor, is_dynamic
from longshore_triton.wanted import Wanted, WantedSequence

_SMALL_SECONDS = 0.005
"""Below this time of one run a model gains more from further copies than from further threads in one."""

REQUEST_ROWS = 4096
"""Rows of one request: Triton refuses more than `max_batch_size`, so that is no bound for joined requests."""

_CONTROLS = (("start", "START"), ("ready", "READY"), ("end", "END"))


def generate(
    name: str, backend: str, signature: Signature, facts: Facts, batches: BatchPlan, wanted: Wanted
) -> ModelConfig:
    """Build the whole configuration of a model that came without one.

    Args:
        name: of the model, in every protocol.
        backend: that runs it.
        signature: what it takes and gives.
        facts: what was found out by running it.
        batches: sizes to run together; not used where the model takes no batch.
        wanted: what the operator asks for.
    """
    config = modelconfig.empty()
    config.name = name
    config.backend = backend
    batched = facts.batches and batches.most > 1
    if batched:
        # A sequence batcher makes as many slots as the size says; one that waits joins up to it.
        bounds = wanted.sequence or (batches.delay_us and not batches.splits)
        config.max_batch_size = batches.most if bounds else max(batches.most, REQUEST_ROWS)
    controls = control_inputs(wanted.sequence)
    skip = 1 if batched else 0
    for tensor in signature.inputs:
        if tensor.name not in controls:
            describe(config.input.add(), tensor, skip)
    for tensor in signature.outputs:
        describe(config.output.add(), tensor, skip)
    config.version_policy.latest.num_versions = wanted.latest_versions
    if wanted.sequence:
        add_sequence(config, wanted.sequence, signature)
    elif batched:
        add_batching(config, batches, wanted)
    add_instances(config, facts, wanted)
    add_accelerator(config, wanted)
    if wanted.cache_bytes:
        config.response_cache.enable = True
    # Warm-up goes past the sequence batcher, so the control inputs would be missing.
    if wanted.warmup and facts.sizes is not None and not wanted.sequence:
        add_warmup(config, signature, facts.sizes, wanted.warmup, batches)
    return config


def control_inputs(sequence: WantedSequence | None) -> frozenset[str]:
    """Name the inputs that Triton itself fills in for a sequence."""
    if sequence is None:
        return frozenset()
    names = (sequence.start, sequence.ready, sequence.end, sequence.correlation)
    return frozenset(name for name in names if name)


def add_batching(config: ModelConfig, batches: BatchPlan, wanted: Wanted) -> None:
    """Add the dynamic batcher: sizes to aim for, the longest wait for them, and the queue's bound if asked.

    Without a delay requests are never joined beyond the largest preferred size, so there always is one; with
    a delay only `max_batch_size` and the backend bound what is joined. With a bounded queue the
    batcher fetches no batch before a copy of the model is idle, and is not told when one becomes idle: it
    waits for the next request, half a second at most. Without one it fetches two batches a copy ahead.
    Source: triton-inference-server/core, `PriorityQueue::SupportPrefetching` in scheduler_utils.h and
    `RateLimiter::PayloadSlotAvailable` in rate_limiter.cc.
    """
    most = min(config.max_batch_size, batches.most)
    batching = config.dynamic_batching
    batching.SetInParent()
    sizes = wanted.preferred_batch_sizes or batches.preferred or (most,)
    batching.preferred_batch_size.extend(sorted({min(size, most) for size in sizes}))
    batching.max_queue_delay_microseconds = batches.delay_us
    if batches.splits:
        config.parameters["joined_rows"].string_value = str(most)
    if wanted.queue is not None:
        batching.default_queue_policy.max_queue_size = wanted.queue


def add_instances(config: ModelConfig, facts: Facts, wanted: Wanted) -> None:
    """Add the instance group: copies of the model on the GPUs there are, else on the CPU."""
    group = config.instance_group.add()
    if wanted.gpus:
        group.kind = modelconfig.kind("GPU")
        group.gpus.extend(range(wanted.gpus))
        group.count = wanted.instances or 1
    else:
        group.kind = modelconfig.kind("CPU")
        group.count = wanted.instances or default_instances(facts, wanted)
        threads = max(1, wanted.cores // group.count)
        if config.backend == "onnxruntime":
            config.parameters["objective_us"].string_value = str(wanted.objective_us or wanted.slow_us)
            config.parameters["intra_op_thread_count"].string_value = str(threads)
            config.parameters["inter_op_thread_count"].string_value = "1"
    if wanted.rate_resources or wanted.rate_priority:
        group.rate_limiter.priority = wanted.rate_priority
        for resource, count in sorted(wanted.rate_resources.items()):
            group.rate_limiter.resources.add(name=resource, count=count)


def default_instances(facts: Facts, wanted: Wanted) -> int:
    """Choose how many copies run on the CPU: one a core for small models, as far as memory allows.

    More copies than cores share the cores and split what waits into smaller batches. Only where the queue is
    bounded there are two at least: one may then be idle while the batcher waits (see `add_batching`).
    """
    most = (
        min(2, wanted.cores) if facts.seconds is not None and facts.seconds > _SMALL_SECONDS else wanted.cores
    )
    least = 1 if wanted.queue is None else 2
    room = wanted.memory_bytes // 4 // max(facts.size_bytes, 1)
    return int(max(1, min(max(least, most), room)))


def add_accelerator(config: ModelConfig, wanted: Wanted) -> None:
    """Add TensorRT (on a GPU) or OpenVINO (on the CPU) to ONNX Runtime's graph."""
    if wanted.accelerator is None:
        return
    if config.backend != "onnxruntime":
        raise StartError(
            "AcceleratorUnsupported",
            f"serving.triton.accelerator: {wanted.accelerator} speeds up ONNX models, and this one runs on "
            f"backend {config.backend}: remove the field",
        )
    accelerators = config.optimization.execution_accelerators
    if wanted.accelerator == "TensorRT":
        if not wanted.gpus:
            raise StartError(
                "AcceleratorUnsupported",
                "serving.triton.accelerator: TensorRT needs a GPU: ask for nvidia.com/gpu in "
                "serving.resources.limits, or remove the field",
            )
        tensorrt = accelerators.gpu_execution_accelerator.add(name="tensorrt")
        tensorrt.parameters["precision_mode"] = "FP16"
        tensorrt.parameters["trt_engine_cache_enable"] = "true"
        tensorrt.parameters["trt_engine_cache_path"] = "/tmp/tensorrt"  # noqa: S108 (the pod's own emptyDir)
    else:
        accelerators.cpu_execution_accelerator.add(name="openvino")


def add_sequence(config: ModelConfig, wanted: WantedSequence, signature: Signature) -> None:
    """Add the sequence batcher with its control inputs."""
    types = {tensor.name: tensor.dtype for tensor in signature.inputs}
    if missing := sorted(control_inputs(wanted) - types.keys()):
        raise StartError(
            "SequenceInvalid",
            f"serving.triton.sequence names the input {missing[0]}, and the model has none of that name; "
            f"it has {', '.join(types)}",
        )
    batching = config.sequence_batching
    batching.max_sequence_idle_microseconds = wanted.max_idle_us
    for field, control in _CONTROLS:
        if name := getattr(wanted, field):
            made = batching.control_input.add(name=name).control.add(kind=modelconfig.control(control))
            off_on = {"FP32": made.fp32_false_true, "BOOL": made.bool_false_true}
            off_on.get(types[name], made.int32_false_true).extend([0, 1])
    if wanted.correlation:
        batching.control_input.add(name=wanted.correlation).control.add(
            kind=modelconfig.control("CORRID"), data_type=modelconfig.type_of(types[wanted.correlation])
        )
    if wanted.strategy == "Oldest":
        batching.oldest.max_candidate_sequences = max(1, config.max_batch_size)
    else:
        batching.direct.SetInParent()


def add_warmup(config: ModelConfig, signature: Signature, sizes: int, count: int, batches: BatchPlan) -> None:
    """Add requests of zeros in the model's own shapes: Triton calls a model ready only after they ran.

    Args:
        config: to add to.
        signature: what the model takes.
        sizes: what a dynamic dimension is set to.
        count: requests of each batch size.
        batches: of which the largest preferred size is warmed up beside 1.
    """
    batched = config.max_batch_size > 0
    largest = batches.preferred[-1] if batched and batches.preferred else 1
    for rows in sorted({1, largest}):
        sample = config.model_warmup.add(name=f"zeros of batch {rows}", count=count)
        if batched:
            sample.batch_size = rows
        for tensor in signature.inputs:
            value = sample.inputs[tensor.name]
            value.data_type = modelconfig.type_of(tensor.dtype)
            shape = tensor.shape[1:] if batched else tensor.shape
            value.dims.extend(sizes if is_dynamic(size) else size for size in shape)
            value.zero_data = True


def describe(message: ModelConfig, tensor: Tensor, skip: int) -> None:
    """Write name, type and dims of a tensor, without its first `skip` dimensions."""
    message.name = tensor.name
    message.data_type = modelconfig.type_of(tensor.dtype)
    dims = [-1 if is_dynamic(size) else size for size in tensor.shape[skip:]]
    if dims:
        message.dims.extend(dims)
    else:
        # Triton wants at least one dimension: a vector of the batch is told with `reshape`.
        message.dims.append(1)
        message.reshape.SetInParent()
