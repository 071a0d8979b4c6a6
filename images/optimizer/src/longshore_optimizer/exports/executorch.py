"""ExecuTorch programs for Android and iOS: `model.pte`, whose arithmetic XNNPACK does on the phone's CPU."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from numpy.typing import NDArray

from longshore_optimizer.exports.base import ExportWork, Format, Runner
from longshore_optimizer.exports.torch_program import Program, program

Array = NDArray[Any]


class ExecuTorch(Format):
    """Lowers what XNNPACK takes to it; the rest runs with ExecuTorch's portable kernels."""

    from_float = True
    runtime = f"executorch {version('executorch')}"

    def __init__(self) -> None:
        self._program: Program | None = None

    def write(self, work: ExportWork) -> Path:
        """Trace, lower and save."""
        self._program = found = program(work)
        target = work.out / "model.pte"
        exported = torch.export.export(found.module, found.sample)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        target.write_bytes(lowered.to_executorch().buffer)
        return target

    def runner(self, written: Path, work: ExportWork) -> Runner:
        """Run with ExecuTorch's runtime for Python, the one of the phones."""
        found = self._program or program(work)
        loaded = Runtime.get().load_program(written)
        method = loaded.load_method("forward")
        if method is None:
            raise ValueError(f"{written.name} has no method forward")

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            answer = method.execute(list(found.tensors(feeds)))
            return [np.array(t.detach().numpy()) for t in answer]

        return run
