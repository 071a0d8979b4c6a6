"""TorchScript for PyTorch's lite interpreter, which older apps for Android and iOS have: `model.ptl`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longshore_optimizer.exports.base import ExportWork, Format, Runner
from longshore_optimizer.exports.torch_program import Program, program

Array = NDArray[Any]


class TorchScriptLite(Format):
    """Writes a frozen program. `optimize_for_mobile` is left out: it rewrites for XNNPACK, without which
    PyTorch's packages on PyPI are built, and refuses to run there."""

    from_float = True
    runtime = f"torch.jit.mobile {torch.__version__}"

    def __init__(self) -> None:
        self._program: Program | None = None

    def write(self, work: ExportWork) -> Path:
        """Trace, freeze and save."""
        self._program = found = program(work)
        target = work.out / "model.ptl"
        with warnings.catch_warnings(), torch.no_grad():
            # TorchScript as a whole is told to be of the past; apps that have its interpreter are not.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(found.module, found.sample).eval()
            torch.jit.freeze(traced)._save_for_lite_interpreter(str(target))
        return target

    def runner(self, written: Path, work: ExportWork) -> Runner:
        """Run with the lite interpreter."""
        from torch.jit.mobile import _load_for_lite_interpreter

        found = self._program or program(work)
        loaded = _load_for_lite_interpreter(str(written))

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            answer = loaded(*found.tensors(feeds))
            return [
                np.array(t.detach().numpy()) for t in (answer if isinstance(answer, tuple) else (answer,))
            ]

        return run
