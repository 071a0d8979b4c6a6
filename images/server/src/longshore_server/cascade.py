"""A cascade: a small model answers, and a large one answers again where the small one is not sure.

Source: Viola and Jones (2001) for the idea; here the confidence is the small model's highest class
probability.
"""

from collections.abc import Callable, Sequence

import numpy as np

from longshore_server.artifact import CascadeFile
from longshore_server.dtypes import BF16, Array, Kind, bf16_to_float
from longshore_server.errors import ExitCode, StartupError, backend_failed
from longshore_server.guarded import GuardedSession
from longshore_server.session import Session, Signature


class Cascade:
    """Two sessions that look like one."""

    def __init__(
        self,
        small: Session | GuardedSession,
        large: Session | GuardedSession,
        file: CascadeFile,
        escalated: Callable[[int], None],
    ) -> None:
        """`escalated` is told the rows sent to the large model.

        Raises `StartupError` when the two do not match.
        """
        _check(small.signature, large.signature, file)
        self._small = small
        self._large = large
        self._threshold = file.threshold
        self._softmax = file.softmax
        self._escalated = escalated
        names = [spec.name for spec in small.signature.outputs]
        self._position = names.index(file.output)
        self._bits = small.signature.outputs[self._position].datatype is BF16
        large_names = [spec.name for spec in large.signature.outputs]
        self._large_order = [large_names.index(name) for name in names]
        large_inputs = [spec.name for spec in large.signature.inputs]
        self._input_order = [
            [spec.name for spec in small.signature.inputs].index(name) for name in large_inputs
        ]
        self._row_by_row = any(spec.shape[:1] == (1,) for spec in large.signature.inputs)

    @property
    def signature(self) -> Signature:
        """That of the small model, which the large one shares."""
        return self._small.signature

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run the small model on all rows and the large one on those below the threshold."""
        outputs = self._small.run(inputs)
        unsure = np.flatnonzero(self._confidence(outputs[self._position]) < self._threshold)
        if not unsure.size:
            return outputs
        self._escalated(int(unsure.size))
        if unsure.size == len(outputs[0]) and not self._row_by_row:
            return self._run_large(inputs)
        merged = [np.array(output) for output in outputs]
        groups = [[row] for row in unsure] if self._row_by_row else [unsure]
        for rows in groups:
            for whole, better in zip(merged, self._run_large([array[rows] for array in inputs]), strict=True):
                if better.shape[1:] != whole.shape[1:]:
                    raise backend_failed(
                        "the cascade's large model gives outputs of another shape than its small one"
                    )
                whole[rows] = better
        return merged

    def _run_large(self, inputs: Sequence[Array]) -> list[Array]:
        outputs = self._large.run([np.ascontiguousarray(inputs[index]) for index in self._input_order])
        return [outputs[index] for index in self._large_order]

    def _confidence(self, scores: Array) -> Array:
        """The highest probability of each row, the lowest of them where a row has several distributions."""
        values = (bf16_to_float(scores) if self._bits else scores).astype(np.float64)
        if self._softmax:
            shifted = np.exp(values - values.max(axis=-1, keepdims=True))
            values = shifted / shifted.sum(axis=-1, keepdims=True)
        # A NaN is no confidence at all.
        highest: Array = np.nan_to_num(values.max(axis=-1), nan=-np.inf)
        lowest: Array = highest.reshape(len(highest), -1).min(axis=-1)
        return lowest


def _check(small: Signature, large: Signature, file: CascadeFile) -> None:
    def bad(what: str) -> StartupError:
        return StartupError(
            ExitCode.BAD_MODEL, f"{file.small.parent} is no cascade: {what}; write the artifact again"
        )

    for kind in ("inputs", "outputs"):
        ours = {spec.name: spec.datatype for spec in getattr(small, kind)}
        theirs = {spec.name: spec.datatype for spec in getattr(large, kind)}
        if ours != theirs:
            raise bad(f"the small model's {kind} are {ours}, the large one's {theirs}")
    output = next((spec for spec in small.outputs if spec.name == file.output), None)
    if output is None:
        raise bad(f"it has no output {file.output!r}")
    if output.datatype.kind is not Kind.FLOAT or len(output.shape) < 2:
        raise bad(f"its output {file.output!r} does not hold class scores for each row")
    if any(not spec.shape for spec in (*small.inputs, *small.outputs)):
        raise bad("a tensor has no leading dimension for rows")
