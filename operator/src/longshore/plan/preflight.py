"""Requests that a new revision must answer like the stable one before it gets weight: made, compared."""

import hashlib
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from longshore.api.rollout import Preflight
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.rollout.model import PreflightView

DIMENSIONS = (1, 8, 32, 48, 64, 224, 320)
"""Sizes that are tried for a dynamic dimension; image models often take only some."""

_LARGEST = 200_000
"""Values of one generated input: beyond, the request says little more and takes long."""

_INTEGERS = {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}
_FLOATS = {"FP16", "FP32", "FP64"}


class Source(StrEnum):
    """Where sample requests come from."""

    EVALUATION = "evaluation"
    """Rows of the user's data, kept in the artifact."""
    TRAFFIC = "traffic"
    """What the stable revision was asked lately."""
    SIGNATURE = "signature"
    """Made from the names, datatypes and shapes of the model's inputs."""


_SAID = {
    Source.EVALUATION: "the evaluation data",
    Source.TRAFFIC: "recent traffic",
    Source.SIGNATURE: "the model's signature",
}


@dataclass(frozen=True)
class Answered:
    """What one side said to one request: its outputs by name (flat values), or why there are none."""

    seconds: float
    outputs: Mapping[str, Sequence[Any]] | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    error: str = ""


def requests_for(metadata: Mapping[str, Any], count: int) -> Iterator[bytes]:
    """Make inference requests (Open Inference Protocol, JSON) from a model's metadata, always the same ones.

    One is made when it is asked for: those of a model of images are megabytes each.
    """
    inputs = metadata.get("inputs", ())
    seed = hashlib.sha256(repr(inputs).encode()).digest()
    source = random.Random(seed)  # noqa: S311 (reproducible samples, no secret)
    for index in range(count):
        size = DIMENSIONS[index % len(DIMENSIONS)]
        request = [_tensor(source, spec, size) for spec in inputs]
        if all(tensor is not None for tensor in request):
            yield json.dumps({"inputs": request}).encode()


def compare(
    settings: Preflight,
    objective: float | None,
    revision: str,
    pairs: Sequence[tuple[Answered, Answered]],
    source: Source = Source.SIGNATURE,
) -> PreflightView:
    """Judge the answers of the new revision (second of each pair) against the stable one's (first).

    Args:
        settings: `spec.rollout.preflight`.
        objective: latency objective in seconds, None without one.
        revision: the new revision.
        pairs: answers to the same request. A request that the stable revision cannot answer says nothing.
        source: where the requests come from.
    """
    usable = [(old, new) for old, new in pairs if old.outputs is not None]
    if not usable:
        why = next((old.error for old, _ in pairs if old.error), "no request could be made")
        return PreflightView(revision, Verdict.NO_DATA, f"no sample request fits the model: {why}")
    failed = [new for _, new in usable if new.outputs is None]
    differ = [
        (old, new)
        for old, new in usable
        if new.outputs is not None and not _agree(old, new, settings.tolerance)
    ]
    bound = settings.max_disagreement
    share = (len(failed) + (len(differ) if bound is not None else 0)) / len(usable)
    said = f"{len(differ)} of {len(usable)} answers to requests from {_SAID[source]} differ, "
    said += f"{len(failed)} failed"
    if failed:
        said += f" ({failed[0].error})"
    if share > (bound or 0.0):
        asked = f"preflight.maxDisagreement is {bound:.0%}" if bound is not None else "all must be answered"
        return PreflightView(revision, Verdict.FAIL, f"{said}; {asked}")
    slow = _too_slow(objective, usable)
    if slow:
        return PreflightView(revision, Verdict.FAIL, slow)
    return PreflightView(revision, Verdict.PASS, said)


def _agree(old: Answered, new: Answered, tolerance: float) -> bool:
    assert old.outputs is not None  # the caller filtered
    assert new.outputs is not None
    if old.outputs.keys() != new.outputs.keys() or old.shapes != new.shapes:
        return False
    return all(_same(values, new.outputs[name], tolerance) for name, values in old.outputs.items())


def _same(old: Sequence[Any], new: Sequence[Any], tolerance: float) -> bool:
    """Tell whether two flat outputs are the same answer.

    Numbers agree if their distance is within `tolerance` of the old one's length (relative L2), which a
    quantized model keeps while a wrong one does not.
    """
    if len(old) != len(new):
        return False
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (*old, *new)):
        return list(old) == list(new)
    if any(not math.isfinite(v) for v in new):
        return False
    distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(old, new, strict=True)))
    length = math.sqrt(sum(a * a for a in old))
    return distance <= tolerance * length + 1e-6


def _too_slow(objective: float | None, usable: Sequence[tuple[Answered, Answered]]) -> str:
    if objective is None:
        return ""
    old = sorted(a.seconds for a, _ in usable)[len(usable) // 2]
    new = sorted(b.seconds for _, b in usable)[len(usable) // 2]
    if new <= objective or new <= old:
        return ""
    return (
        f"the median answer takes {new * 1000:.0f} ms (stable {old * 1000:.0f} ms), "
        f"serving.latencyObjective is {objective * 1000:.0f} ms"
    )


def _tensor(source: random.Random, spec: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    shape = [1 if i == 0 and d < 0 else size if d < 0 else d for i, d in enumerate(spec.get("shape", ()))]
    count = math.prod(shape)
    if count > _LARGEST:
        return None
    datatype = spec.get("datatype", "")
    if datatype in _FLOATS:
        data: list[Any] = [round(source.uniform(-1, 1), 4) for _ in range(count)]
    elif datatype in _INTEGERS:
        data = [source.randint(0, 9) for _ in range(count)]
    elif datatype == "BOOL":
        data = [source.random() < 0.5 for _ in range(count)]
    elif datatype == "BYTES":
        data = ["sample"] * count
    else:
        return None
    return {"name": spec.get("name", ""), "datatype": datatype, "shape": shape, "data": data}
