"""Core ML programs for iOS and macOS: `model.mlpackage`."""

import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longshore_optimizer.exports.base import ExportWork, Format, Runner
from longshore_optimizer.exports.torch_program import Program, program

# Core ML's tools load TensorFlow where they find it, whose LLVM ends a process that holds PyTorch's.
sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]  # how Python marks what must not load

import coremltools  # noqa: E402

Array = NDArray[Any]


class CoreMl(Format):
    """Writes an ML program with weights in float32; inputs and outputs keep the names of the ONNX model where
    Core ML takes them."""

    from_float = True
    runtime = f"coremltools {version('coremltools')}"

    def __init__(self) -> None:
        self._program: Program | None = None

    def write(self, work: ExportWork) -> Path:
        """Trace, convert and save."""
        self._program = found = program(work)
        target = work.out / "model.mlpackage"
        exported = torch.export.export(found.module, found.sample).run_decompositions({})
        converted = coremltools.convert(
            exported,
            convert_to="mlprogram",
            compute_precision=coremltools.precision.FLOAT32,
            inputs=[
                coremltools.TensorType(name=_name(name), shape=tuple(tensor.shape))
                for name, tensor in zip(found.inputs, found.sample, strict=True)
            ],
            outputs=[coremltools.TensorType(name=_name(name)) for name in found.outputs],
            skip_model_load=True,
        )
        converted.save(str(target))
        return target

    def runner(self, written: Path, work: ExportWork) -> Runner | str:
        """Run with Core ML, which macOS alone has."""
        if platform.system() != "Darwin":
            return "Core ML runs on Apple's systems alone; compare it there before you ship it"
        found = self._program or program(work)
        model = coremltools.models.MLModel(str(written), compute_units=coremltools.ComputeUnit.CPU_ONLY)

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            answer = model.predict({_name(n): np.asarray(feeds[n]) for n in found.inputs})
            return [np.asarray(answer[_name(n)]) for n in found.outputs]

        return run


def _name(name: str) -> str:
    """A name as Core ML takes it: letters, digits and underscores."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if plain and not plain[0].isdigit() else f"_{plain}"
