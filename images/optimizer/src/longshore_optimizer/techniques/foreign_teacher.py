"""A teacher that is not the original: any model that the runtime runs, whatever its operators."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor

from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import NotApplicableError, Work
from longshore_optimizer.techniques.torch_graph import answers


class ForeignTeacher:
    """Answers as `TorchGraph` does, but with one tensor only: `target`, before a final Softmax."""

    def __init__(self, path: Path, scratch: Path, threads: int) -> None:
        """Open the model; `scratch` takes a copy whose output is `target`.

        Raises:
            NotApplicableError: no output is float32.
        """
        model = onnxfile.load(path)
        self.target = answers(model.graph)
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(self.target, TensorProto.FLOAT, None))
        copy = scratch / "teacher.onnx"
        onnxfile.save(model, copy)
        self._session = open_session(copy, threads)
        self._inputs = tensor_specs(self._session.get_inputs())

    def __call__(self, feeds: Mapping[str, Tensor], wanted: Sequence[str]) -> list[Tensor]:
        """Give `target` for a batch, samples on axis 0.

        Raises:
            NotApplicableError: the teacher takes other inputs than the model.
            KeyError: another tensor is wanted.
        """
        if list(wanted) != [self.target]:
            raise KeyError(wanted)
        arrays = self._arrays(feeds)
        first = next(iter(arrays.values()))
        alone = any(i.shape and i.shape[0] == 1 for i in self._inputs)
        size = 1 if alone else len(first)
        parts = []
        for start in range(0, len(first), size):
            part = {name: array[start : start + size] for name, array in arrays.items()}
            try:
                parts.append(np.asarray(self._session.run(None, part)[0]))
            except Exception as error:  # the runtime raises its own classes
                text = " ".join(str(error).split())[:200]
                raise NotApplicableError(f"the teacher fails on the training data: {text}") from error
        return [torch.from_numpy(np.concatenate(parts))]

    def _arrays(self, feeds: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        if len(self._inputs) == 1 and len(feeds) == 1:
            feeds = {self._inputs[0].name: next(iter(feeds.values()))}
        missing = [i.name for i in self._inputs if i.name not in feeds]
        if missing:
            raise NotApplicableError(
                f"the teacher takes an input {missing[0]!r}, the model takes {', '.join(sorted(feeds))}: "
                "name a teacher with the model's inputs"
            )
        return {i.name: feeds[i.name].numpy().astype(i.dtype, copy=False) for i in self._inputs}


def of(work: Work) -> ForeignTeacher | None:
    """Open the teacher that is given in place of the original, if there is one; raises as the teacher."""
    if work.teacher is None:
        return None
    return ForeignTeacher(work.teacher, work.out.parent, work.threads)
