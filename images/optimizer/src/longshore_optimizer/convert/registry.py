"""Which converter takes which container; a converter is imported only when it is needed."""

from collections.abc import Callable
from pathlib import Path

from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.fetch import content

Converter = Callable[[Path, Path, Path | None, bool], Converted]
"""Takes the model, where to write ONNX, samples as `.npz` (None: made up) and whether pickles are allowed."""


def _scikit_learn() -> Converter:
    from longshore_optimizer.convert import scikit_learn

    return scikit_learn.convert


CONVERTERS: dict[str, Callable[[], Converter]] = {
    content.SKOPS: _scikit_learn,
    content.PICKLE: _scikit_learn,
}

NEEDS_PICKLE = frozenset({content.PICKLE, content.TORCH_PICKLE})
