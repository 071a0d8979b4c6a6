"""For NVIDIA GPUs and Jetsons: the ONNX model, and the recipe that builds a TensorRT engine from it.

An engine fits the GPU and the TensorRT release that it was built with alone, so it is built where it runs.
Flags are those of trtexec:
https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html
"""

from collections.abc import Sequence
from pathlib import Path

from longshore.artifact.manifest import MODEL_NAME

from longshore_optimizer import modeldir
from longshore_optimizer.data import TensorSpec
from longshore_optimizer.exports.base import ExportWork, Format, Runner
from longshore_optimizer.measure.session import open_session, tensor_specs

RECIPE = "build-engine.txt"
_TYPICAL_BATCH = 8
_LARGEST_BATCH = 32


class TensorRt(Format):
    """Writes files for a builder. TensorRT takes no model that was quantized for CPUs (unsigned activations
    with zero points), so this starts from float."""

    from_float = True
    runtime = "TensorRT"

    def write(self, work: ExportWork) -> Path:
        """Copy the model and write the recipe beside it."""
        target = work.out / MODEL_NAME
        modeldir.copy_onnx(work.model, work.out)
        inputs = tensor_specs(open_session(work.model, work.threads).get_inputs())
        sizes = {name: tuple(array.shape) for name, array in work.sample.items()}
        digest = modeldir.onnx_sha256(target)
        (work.out / RECIPE).write_text(recipe(inputs, sizes, digest))
        return target

    def runner(self, written: Path, work: ExportWork) -> Runner | str:
        """Nothing here can run it."""
        del written, work
        return f"an engine is built on the GPU that runs it, by {RECIPE}"


def recipe(inputs: Sequence[TensorSpec], sample: dict[str, tuple[int, ...]], sha256: str) -> str:
    """The exact command, what its shapes mean, and what an engine has to be kept apart by."""
    free = [i for i in inputs if any(size is None for size in _sizes(i, sample))]
    flags = [f"--onnx={MODEL_NAME}", "--saveEngine=model.plan", "--fp16"]
    for flag, batch in (("minShapes", 1), ("optShapes", _TYPICAL_BATCH), ("maxShapes", _LARGEST_BATCH)):
        if free:
            shapes = ",".join(f"{_quoted(i.name)}:{_shape(i, sample, flag, batch)}" for i in free)
            flags.append(f"--{flag}={shapes}")
    command = " \\\n    ".join(["trtexec", *flags])
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
on GPUs from Ampere on; add --noTF32 against that). For int8 quantize on the GPU's terms first, with signed,
symmetric values, then add --int8.

Key: an engine runs only with the GPU's compute capability, the TensorRT release and the operating system that
it was built with. Keep one for each of these under
    {short}-trt<TensorRT version>-sm<compute capability>-<platform>.plan
for example {short}-trt10.9.0-sm86-linux_x86_64.plan. Both are told by
    nvidia-smi --query-gpu=name,compute_cap --format=csv
    trtexec --help | head -n 1

Compare before you serve it:
    trtexec --loadEngine=model.plan --loadInputs=<name>:<file> --dumpOutput
"""


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


def _quoted(name: str) -> str:
    """A name as trtexec takes it: one with a colon stands in quotes."""
    return f"\\'{name}\\'" if ":" in name else name


def _told(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "of any shape"
    names = spec.symbols or spec.shape
    return "x".join("?" if n is None else str(n) for n in names)
