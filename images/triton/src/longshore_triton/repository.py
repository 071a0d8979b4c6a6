"""From an artifact to the model repository that Triton reads: configurations written, versions linked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from longshore_triton import backends, engine, ensemble, modelconfig
from longshore_triton.complete import complete
from longshore_triton.curve import BatchPlan, plan
from longshore_triton.engine import Engine
from longshore_triton.errors import StartError
from longshore_triton.generate import generate
from longshore_triton.layout import ModelDirectory, find
from longshore_triton.modelconfig import ModelConfig
from longshore_triton.onnxfile import read_signature
from longshore_triton.probe import Facts, probe
from longshore_triton.tensors import Signature, is_dynamic
from longshore_triton.wanted import Wanted

_UNKNOWN = Facts(batches=True, sizes=None)
_PLATFORM_OF_FILE = {"model.savedmodel": "tensorflow_savedmodel", "model.graphdef": "tensorflow_graphdef"}


@dataclass(frozen=True)
class Planned:
    """One model of the repository: its configuration, and where each version lies in the artifact.

    `engine` is the TensorRT engine that runs in place of the ONNX model, or why none does; None where none is
    asked for.
    """

    config: ModelConfig
    versions: Mapping[int, Path]
    engine: Engine | str | None = None


@dataclass(frozen=True)
class Repository:
    """All models of the repository; `complete` tells whether Triton has nothing left to find out."""

    models: tuple[Planned, ...]
    complete: bool

    @property
    def has_engine(self) -> bool:
        """Tell whether a TensorRT engine runs in place of an ONNX model."""
        return any(isinstance(model.engine, Engine) for model in self.models)

    def write(self, directory: Path) -> None:
        """Write the configurations, and link each version to the artifact that stays where it is."""
        for model in self.models:
            home = directory / model.config.name
            home.mkdir(parents=True)
            (home / modelconfig.FILE).write_text(modelconfig.render(model.config))
            for number, path in model.versions.items():
                (home / str(number)).symlink_to(path.resolve(), target_is_directory=True)
            if not model.versions:
                (home / "1").mkdir()


def plan_repository(
    root: Path,
    wanted: Wanted,
    has: frozenset[str],
    in_python: frozenset[str] = frozenset(),
    look: engine.Look = lambda: "nobody looked at this pod",
) -> Repository:
    """Decide the whole repository.

    Args:
        root: the artifact.
        wanted: what the operator asks for.
        has: backends of the image.
        in_python: those of them that run on Triton's Python backend.
        look: tells what a TensorRT engine would find in this pod.

    Raises:
        StartError: it cannot be served so; the message names the cause and the next step.
    """
    found = find(root, wanted.allow_python)
    served = _served(found, wanted.name)
    planned = [
        _plan(model, wanted.name if model is served else model.name, wanted, has, in_python, look)
        for model in found
    ]
    if len({p.config.name for p in planned}) < len(planned):
        raise StartError("ModelInvalid", f"two models of the repository are called {wanted.name}: rename one")
    configs = {p.config.name: p.config for p in planned}
    if served is None:
        planned.append(Planned(ensemble.chain(wanted.name, configs), {}))
    for config in configs.values():
        if ensemble.is_ensemble(config):
            ensemble.check(config, configs)
    if cycle := _cycle(configs):
        raise StartError("EnsembleInvalid", f"ensembles contain each other: {' -> '.join(cycle)}")
    known = all(p.config.input and p.config.output and p.config.backend != "python" for p in planned)
    return Repository(tuple(planned), known)


def _served(found: tuple[ModelDirectory, ...], name: str) -> ModelDirectory | None:
    """Find the model that answers under the deployment's name; None where a chain must be made."""
    if len(found) == 1:
        return found[0]
    names = {model.name for model in found}
    ensembles = [m for m in found if m.config is not None and ensemble.is_ensemble(_parsed(m))]
    if not ensembles and "model" in names and names <= set(ensemble.CHAIN):
        if name in names:
            raise StartError(
                "ModelAmbiguous",
                f"the ModelDeployment is called {name} like a step of the chain {', '.join(sorted(names))}: "
                "rename the ModelDeployment",
            )
        return None
    for model in found:
        if model.name == name:
            return model
    if len(ensembles) == 1:
        return ensembles[0]
    raise StartError(
        "ModelAmbiguous",
        f"the repository has the models {', '.join(sorted(names))}, and none says which one answers: call "
        f"one {name}, or bring exactly one ensemble, or name them {', '.join(ensemble.CHAIN)}",
    )


def _parsed(model: ModelDirectory) -> ModelConfig:
    return modelconfig.parse(model.config or "", f"{modelconfig.FILE} of model {model.name}")


def _plan(
    model: ModelDirectory,
    name: str,
    wanted: Wanted,
    has: frozenset[str],
    in_python: frozenset[str],
    look: engine.Look,
) -> Planned:
    found = _engine(model, wanted, has, look)
    if isinstance(found, Engine):
        try:
            return _plan_engine(model.path / engine.DIRECTORY, found, name, wanted)
        except StartError as error:
            found = (
                f"the model that it was built from cannot be described ({error}): optimize the model again"
            )
    shown = name or model.path.name
    if model.config is not None:
        own = _parsed(model)
        if ensemble.is_ensemble(own):
            own.name = name
            own.platform, own.backend = "ensemble", ""
            return Planned(own, model.versions)
        if model.name and own.name and own.name != model.name:
            raise StartError(
                "ConfigContradictsModel",
                f"{modelconfig.FILE} says the name {own.name} and lies in the directory {model.name}: "
                "make them equal",
            )
        backend = own.backend or backends.PLATFORMS.get(own.platform, "") or model.backend
    else:
        backend = model.backend
    if backend is None:
        raise StartError(
            "ModelInvalid",
            f"model {shown} has no file of a known name in its newest version: "
            f"{', '.join(n for names in backends.FILES.values() for n in names)}",
        )
    backends.require(backend, has, shown)
    _check_code(model, backend, shown, wanted)
    signature, facts = _look(model, wanted)
    batches = _batches(facts, wanted, backend == "onnxruntime" and backend in in_python)
    generated = generate(name, backend, signature, facts, batches, wanted) if signature else None
    if model.config is not None:
        config = complete(model.config, generated, signature, facts, batches, wanted, name, model.backend)
    elif generated is not None:
        config = generated
    else:
        config = _without_signature(name, backend, model, wanted)
    return Planned(config, model.versions, found)


def _engine(
    model: ModelDirectory, wanted: Wanted, has: frozenset[str], look: engine.Look
) -> Engine | str | None:
    """Choose the engine beside an ONNX model as the optimizer leaves both."""
    asked = wanted.accelerator == "TensorRT" and wanted.gpus > 0
    alone = model.config is None and model.versions == {1: model.path} and model.backend == "onnxruntime"
    return engine.choose(model.path, has, look) if asked and alone else None


def _plan_engine(directory: Path, found: Engine, name: str, wanted: Wanted) -> Planned:
    """Describe an engine by the ONNX model that it was built from, within the batches that it takes."""
    wanted = replace(wanted, accelerator=None, max_batch_size=min(wanted.max_batch_size, found.most))
    file = directory / "model.onnx"
    signature = read_signature(file)
    facts = probe(file, signature, wanted.cores, wanted.max_batch_size)
    inner = [d for t in signature.inputs for d in t.shape[1 if facts.batches else 0 :]]
    if any(map(is_dynamic, inner)):
        # The engine takes such sizes up to those of the sample that it was built with, which stands nowhere.
        facts = replace(facts, sizes=None)
    config = generate(name, engine.BACKEND, signature, facts, _batches(facts, wanted, False), wanted)
    config.max_batch_size = min(config.max_batch_size, found.most)
    config.parameters["longshore_engine"].string_value = f"TensorRT {found.fit.tensorrt}, {found.fit.gpu}"
    return Planned(config, {1: directory}, found)


def _look(model: ModelDirectory, wanted: Wanted) -> tuple[Signature | None, Facts]:
    file = model.model_file("model.onnx")
    if file is None:
        return None, _UNKNOWN
    signature = read_signature(file)
    return signature, probe(file, signature, wanted.cores, wanted.max_batch_size)


def _batches(facts: Facts, wanted: Wanted, splits: bool) -> BatchPlan:
    """Choose sizes; `splits`: the backend is ours, which runs no more than it is told together.

    Requests wait for others only where the spec says so. A delay pays where there are as many clients at once
    as the preferred size has rows; with fewer every one of their requests waits it out. Measured with a small
    model (`make bench-triton`): 2 ms give 1.1 times the throughput of 32 clients, 0.3 of 8, 0.1 of one.
    """
    # The curve was measured on the CPU: it says nothing of a GPU.
    points = () if wanted.gpus else facts.points
    objective = wanted.objective_us / 1e6 if wanted.objective_us is not None else None
    planned = plan(points, wanted.max_batch_size, objective)
    return replace(planned, delay_us=wanted.max_delay_us or 0, splits=splits)


def _without_signature(name: str, backend: str, model: ModelDirectory, wanted: Wanted) -> ModelConfig:
    """Leave to Triton what only Triton can read of these formats; PyTorch's files do not tell it either."""
    if backend == "pytorch":
        raise StartError(
            "ConfigMissing",
            f"a PyTorch file does not say what it takes and gives: put a {modelconfig.FILE} with input and "
            f"output beside the version directory of model {name}, or let optimize convert the model to ONNX",
        )
    config = modelconfig.empty()
    config.name = name
    config.backend = backend
    for file, platform in _PLATFORM_OF_FILE.items():
        if model.model_file(file):
            config.platform = platform
    config.version_policy.latest.num_versions = wanted.latest_versions
    return config


def _check_code(model: ModelDirectory, backend: str, name: str, wanted: Wanted) -> None:
    if wanted.allow_python:
        return
    own = _parsed(model) if model.config is not None else modelconfig.empty()
    if backend == "python":
        cause = "runs on the Python backend"
    elif own.runtime:
        cause = f"names a runtime of its own, {own.runtime}"
    elif own.model_operations.op_library_filename:
        cause = f"loads the library {own.model_operations.op_library_filename[0]}"
    elif own.model_repository_agents.agents:
        cause = f"asks for the repository agent {own.model_repository_agents.agents[0].name}"
    elif "EXECUTION_ENV_PATH" in own.parameters:
        cause = "brings a Python environment"
    else:
        return
    raise StartError(
        "CodeNotAllowed",
        f"model {name} {cause}: set serving.triton.allowPython: true if you trust the artifact",
    )


def _cycle(configs: Mapping[str, ModelConfig]) -> tuple[str, ...]:
    """Give the names along a cycle of ensembles that are steps of each other; empty where there is none."""
    graph = {
        name: {step.model_name for step in config.ensemble_scheduling.step}
        for name, config in configs.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return tuple(error.args[1])
    return ()
