"""Checks ensembles before Triton sees them, and chains pre-processing, model and post-processing into one."""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from longshore_triton import modelconfig
from longshore_triton.errors import StartError
from longshore_triton.modelconfig import ModelConfig

CHAIN = ("preprocess", "model", "postprocess")
"""Models of these names, without an ensemble beside them, are chained in this order."""


def is_ensemble(config: ModelConfig) -> bool:
    """Tell whether a configuration is an ensemble's."""
    return bool(config.platform == "ensemble" or config.ensemble_scheduling.step)


def check(ensemble: ModelConfig, models: Mapping[str, ModelConfig]) -> None:
    """Check that an ensemble can run.

    Args:
        ensemble: its configuration.
        models: the configurations of all models beside it, by name.

    Raises:
        StartError: a step that is not there, a tensor that nobody makes or two make, types or shapes that do
            not fit, a cycle; every problem is named.
    """
    problems = list(_problems(ensemble, models))
    if problems:
        raise StartError("EnsembleInvalid", f"ensemble {ensemble.name} cannot run: {'; '.join(problems)}")


def chain(name: str, models: Mapping[str, ModelConfig]) -> ModelConfig:
    """Build the ensemble `name` of the models called as in `CHAIN`, joined by the names of their tensors.

    Raises:
        StartError: two steps do not fit.
    """
    steps = [models[step] for step in CHAIN if step in models]
    ensemble = modelconfig.empty()
    ensemble.name = name
    ensemble.platform = "ensemble"
    ensemble.max_batch_size = min(step.max_batch_size for step in steps)
    known: set[str] = set()
    for step in steps:
        made = ensemble.ensemble_scheduling.step.add(model_name=step.name, model_version=-1)
        for tensor in step.input:
            if tensor.name not in known:
                ensemble.input.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
                known.add(tensor.name)
            made.input_map[tensor.name] = tensor.name
        for tensor in step.output:
            made.output_map[tensor.name] = tensor.name
            known.add(tensor.name)
    for tensor in steps[-1].output:
        ensemble.output.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    check(ensemble, models)
    return ensemble


def _problems(ensemble: ModelConfig, models: Mapping[str, ModelConfig]) -> Iterator[str]:
    made: dict[str, tuple[str, ModelConfig]] = {}
    for tensor in ensemble.input:
        made[tensor.name] = ("its own input", tensor)
    needs: dict[str, set[str]] = {}
    makers: dict[str, str] = {}
    steps = list(enumerate(ensemble.ensemble_scheduling.step))
    if not steps:
        yield "it has no steps"
    for index, step in steps:
        if step.model_name == ensemble.name:
            yield f"step {index} is the ensemble itself"
            continue
        model = models.get(step.model_name)
        if model is None:
            yield f"step {index} needs model {step.model_name}, which is not in the repository"
            continue
        if ensemble.max_batch_size > model.max_batch_size:
            yield (
                f"its max_batch_size {ensemble.max_batch_size} is above the {model.max_batch_size} "
                f"of its step {step.model_name}"
            )
        outputs = {tensor.name: tensor for tensor in model.output}
        for theirs, ours in step.output_map.items():
            if theirs not in outputs and model.output:
                yield f"{step.model_name} has no output {theirs}; it has {', '.join(outputs)}"
            elif ours in made:
                yield f"tensor {ours} is made by {step.model_name} and by {made[ours][0]}"
            elif theirs in outputs:
                made[ours] = (step.model_name, outputs[theirs])
            makers[ours] = f"{index}"
    for index, step in steps:
        model = models.get(step.model_name)
        if model is None or step.model_name == ensemble.name:
            continue
        inputs = {tensor.name: tensor for tensor in model.input}
        if missing := sorted(name for name in inputs if name not in step.input_map):
            yield f"step {step.model_name} gets nothing for its input {missing[0]}"
        for theirs, ours in step.input_map.items():
            if theirs not in inputs and model.input:
                yield f"{step.model_name} has no input {theirs}; it has {', '.join(inputs)}"
            elif ours not in made and ours not in makers:
                yield f"nobody makes tensor {ours}, which {step.model_name} takes as {theirs}"
            elif ours in made and theirs in inputs:
                yield from _mismatch(ours, *made[ours], step.model_name, inputs[theirs])
        needs[f"{index}"] = {makers[ours] for ours in step.input_map.values() if ours in makers}
    for tensor in ensemble.output:
        if tensor.name not in made:
            yield f"nobody makes its output {tensor.name}"
        else:
            yield from _mismatch(tensor.name, *made[tensor.name], "the ensemble's output", tensor)
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        names = {f"{index}": step.model_name for index, step in steps}
        yield f"its steps wait for each other: {' -> '.join(names[node] for node in reversed(error.args[1]))}"


def _mismatch(name: str, maker: str, made: ModelConfig, taker: str, taken: ModelConfig) -> Iterator[str]:
    if made.data_type != taken.data_type and made.data_type and taken.data_type:
        yield (
            f"tensor {name} is {modelconfig.dtype_of(made.data_type)} from {maker} and "
            f"{modelconfig.dtype_of(taken.data_type)} for {taker}"
        )
    sizes = list(zip(made.dims, taken.dims, strict=False))
    if len(made.dims) == len(taken.dims) and any(a != b and a >= 0 and b >= 0 for a, b in sizes):
        yield f"tensor {name} is {list(made.dims)} from {maker} and {list(taken.dims)} for {taker}"
