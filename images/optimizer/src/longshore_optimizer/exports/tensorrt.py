"""For NVIDIA GPUs and Jetsons: the ONNX model, the recipe that builds a TensorRT engine from it, and the
engine itself where this process runs beside a GPU and TensorRT's `trtexec`.

An engine fits the GPU and the TensorRT release that it was built with alone, so it is built where it runs.
Flags are those of trtexec:
https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html
"""

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longshore.artifact.manifest import MODEL_NAME

from longshore_optimizer import modeldir
from longshore_optimizer.data import TensorSpec
from longshore_optimizer.exports import gpu, trtexec
from longshore_optimizer.exports.base import Array, ExportWork, Format, Runner
from longshore_optimizer.exports.trtexec import EngineError, Trtexec
from longshore_optimizer.fetch.sink import file_sha256
from longshore_optimizer.measure.session import open_session, tensor_specs

RECIPE = "build-engine.txt"
PLAN = "model.plan"
DESCRIPTION = "engine.json"
"""What the engine runs with, for whoever serves it."""

_NO_BUILDER = "this image has no trtexec (images/optimizer/Dockerfile.tensorrt makes one that has)"
_TYPICAL_BATCH = 8
_LARGEST_BATCH = 32
"""As many rows as serving joins where the spec says nothing else."""
_BARE = re.compile(r"[\w@%+=:,./'-]+", re.ASCII)
_LAST_WITH_FLAG = 10
"""From release 11 on the model itself says the precision of each layer, and trtexec has no --fp16."""


@dataclass(frozen=True)
class _Built:
    trtexec: Trtexec
    gpu: gpu.Gpu
    batches: tuple[int, int]
    precision: str
    free: tuple[str, ...]


class TensorRt(Format):
    """TensorRT takes no model that was quantized for CPUs (unsigned activations with zero points), so this
    starts from float."""

    from_float = True
    runtime = "TensorRT"
    most_samples = 8
    """Each is a start of CUDA."""

    def __init__(self) -> None:
        """Start without an engine."""
        self._engine: _Built | str = "none was built"

    def write(self, work: ExportWork) -> Path:
        """Copy the model, write the recipe beside it, and build the engine where that can be done."""
        target = work.out / MODEL_NAME
        modeldir.copy_onnx(work.model, work.out)
        inputs = tensor_specs(open_session(work.model, work.threads).get_inputs())
        sizes = {name: tuple(array.shape) for name, array in work.sample.items()}
        digest = modeldir.onnx_sha256(target)
        (work.out / RECIPE).write_text(recipe(inputs, sizes, digest))
        try:
            self._engine = _build(work.out, inputs, sizes, digest)
        except EngineError as error:
            self._engine = f"it could not be built here: {error}"
        if isinstance(self._engine, _Built):
            self.runtime = f"TensorRT {self._engine.trtexec.release}"
        return target

    def runner(self, written: Path, work: ExportWork) -> Runner | str:
        """Run the engine; gives why where there is none."""
        if isinstance(self._engine, str):
            return _unbuilt(self._engine)
        engine = self._engine
        outputs = {
            o.name: o.dtype for o in tensor_specs(open_session(work.model, work.threads).get_outputs())
        }
        plan = written.parent.resolve() / PLAN

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            return engine.trtexec.answer(plan, feeds, engine.free, outputs)

        return run

    def latencies(self, written: Path, work: ExportWork) -> list[float] | None:
        """Take trtexec's own times: a process that starts CUDA for each run tells nothing."""
        if isinstance(self._engine, str):
            return None
        plan = written.parent.resolve() / PLAN
        return self._engine.trtexec.latencies(plan, work.sample, self._engine.free)

    def notes(self, written: Path, work: ExportWork) -> tuple[str, ...]:
        """Tell what the engine is for."""
        del written, work
        if isinstance(self._engine, str):
            return ()
        found, (least, most) = self._engine.gpu, self._engine.batches
        return (
            f"an engine for {found.name} (compute capability {found.compute_capability}), driver "
            f"{found.driver}, TensorRT {self._engine.trtexec.release}, {self._engine.precision}, "
            f"batches of {least} to {most}",
        )

    def withdraw(self, work: ExportWork, why: str) -> str | None:
        """Remove an engine that answers wrongly; the model and the recipe are of use without it."""
        if isinstance(self._engine, str):
            return None
        _remove(work.out)
        self._engine = f"the one that was built here was refused: {why}"
        return _unbuilt(self._engine)


def _unbuilt(why: str) -> str:
    return f"an engine is built on the GPU that runs it, by {RECIPE}; {why}"


def _build(
    out: Path, inputs: Sequence[TensorSpec], sample: dict[str, tuple[int, ...]], digest: str
) -> _Built | str:
    """Build the engine and describe it; gives why where nothing here can.

    Raises:
        EngineError: the builder failed.
    """
    device, program = gpu.find(), trtexec.find()
    if program is None:
        return _NO_BUILDER if isinstance(device, gpu.Gpu) else f"{_NO_BUILDER}, and {device}"
    if isinstance(device, str):
        return device
    builder = trtexec.opened(program)
    if (name := trtexec.unnamable([i.name for i in inputs])) is not None:
        return f"trtexec cannot be told of an input called {name!r}: rename it"
    half = builder.version[0] <= _LAST_WITH_FLAG
    partial = out / f".{PLAN}"
    try:
        flags = arguments(inputs, sample, plan=partial.name, half=half)
        builder.run([*flags, "--skipInference"], out, trtexec.BUILD_SECONDS)
        if not partial.is_file() or not partial.stat().st_size:
            raise EngineError("trtexec ended well and wrote no engine")
        os.replace(partial, out / PLAN)
    finally:
        partial.unlink(missing_ok=True)
    built = _Built(
        builder, device, batches(inputs, sample), "fp16" if half else "fp32", tuple(_free(inputs, sample))
    )
    described = {
        "gpu": device.name,
        "computeCapability": device.compute_capability,
        "driver": device.driver,
        "tensorrt": builder.release,
        "platform": f"{sys.platform}_{platform.machine()}",
        "precision": built.precision,
        "source": digest,
        "plan": file_sha256(out / PLAN),
        "minBatch": built.batches[0],
        "maxBatch": built.batches[1],
    }
    written = out / f".{DESCRIPTION}"
    written.write_text(json.dumps(described, indent=2) + "\n")
    os.replace(written, out / DESCRIPTION)
    return built


def _remove(out: Path) -> None:
    for name in (DESCRIPTION, PLAN):
        (out / name).unlink(missing_ok=True)


def arguments(
    inputs: Sequence[TensorSpec], sample: dict[str, tuple[int, ...]], *, plan: str = PLAN, half: bool = True
) -> list[str]:
    """Give trtexec's flags, of the recipe and of the build alike.

    Args:
        inputs: of the model.
        sample: shape of each in one sample.
        plan: file to write.
        half: layers may run in half precision.
    """
    free = _free(inputs, sample)
    flags = [f"--onnx={MODEL_NAME}", f"--saveEngine={plan}", *(["--fp16"] if half else [])]
    for flag, batch in (("minShapes", 1), ("optShapes", _TYPICAL_BATCH), ("maxShapes", _LARGEST_BATCH)):
        if free:
            shapes = ",".join(
                f"{trtexec.named(i.name)}:{_shape(i, sample, flag, batch)}" for i in inputs if i.name in free
            )
            flags.append(f"--{flag}={shapes}")
    return flags


def batches(inputs: Sequence[TensorSpec], sample: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """Give the fewest and the most rows that an engine takes at once."""
    leading = [sizes[0] for i in inputs if (sizes := _sizes(i, sample))]
    fixed = [size for size in leading if size is not None]
    if not leading or None in leading:
        return 1, _LARGEST_BATCH if leading else 1
    return fixed[0], fixed[0]


def recipe(inputs: Sequence[TensorSpec], sample: dict[str, tuple[int, ...]], sha256: str) -> str:
    """The exact command, what its shapes mean, and what an engine has to be kept apart by."""
    command = " \\\n    ".join(["trtexec", *map(_shell, arguments(inputs, sample))])
    seen = "\n".join(f"  {i.name}: {i.dtype} {_told(i)}" for i in inputs)
    short = sha256[:12]
    return f"""\
A TensorRT engine of {MODEL_NAME} (sha256 {sha256})

Run this in this folder, on a node with the GPU (or on the Jetson) that the engine is for, with trtexec of
TensorRT 10:

{command}

Inputs:
{seen}

Shapes: sizes that the model leaves free have a smallest, a typical and a largest value: on the first axis
1, {_TYPICAL_BATCH} and {_LARGEST_BATCH}, on others 1, then the size in your data for both. The engine refuses
what is outside: raise maxShapes where your requests are larger.

Precision: --fp16 lets layers run in half precision where that is faster. Without it they run in float32 (TF32
on GPUs from Ampere on; add --noTF32 against that). trtexec of TensorRT 11 does not know the flag: there the
model says the precision of each layer. For int8 quantize on the GPU's terms first, with signed, symmetric
values, then add --int8.

Key: an engine runs only with the GPU's compute capability, the TensorRT release and the operating system that
it was built with. Keep one for each of these under
    {short}-trt<TensorRT version>-sm<compute capability>-<platform>.plan
for example {short}-trt10.9.0-sm86-linux_x86_64.plan. Both are told by
    nvidia-smi --query-gpu=name,compute_cap --format=csv
    trtexec --help | head -n 1

Compare before you serve it:
    trtexec --loadEngine={PLAN} --loadInputs=<name>:<file> --dumpOutput
"""


def _free(inputs: Sequence[TensorSpec], sample: dict[str, tuple[int, ...]]) -> list[str]:
    return [i.name for i in inputs if any(size is None for size in _sizes(i, sample))]


def _sizes(spec: TensorSpec, sample: dict[str, tuple[int, ...]]) -> tuple[int | None, ...]:
    return spec.shape if spec.shape is not None else (None,) * len(sample[spec.name])


def _shape(spec: TensorSpec, sample: dict[str, tuple[int, ...]], flag: str, batch: int) -> str:
    sizes = []
    for axis, size in enumerate(_sizes(spec, sample)):
        if size is not None:
            sizes.append(size)
        elif axis == 0:
            sizes.append(batch)
        else:
            sizes.append(1 if flag == "minShapes" else sample[spec.name][axis])
    return "x".join(str(size) for size in sizes)


def _shell(word: str) -> str:
    """A word for a shell; names come from the model."""
    return word.replace("'", "\\'") if _BARE.fullmatch(word) else shlex.quote(word)


def _told(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "of any shape"
    names = spec.symbols or spec.shape
    return "x".join("?" if n is None else str(n) for n in names)
