"""What only running a model tells: whether it takes batches, sizes that it accepts, and its batch curve."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longshore_triton.curve import Point
from longshore_triton.tensors import Signature, is_dynamic, surely_batches

DEADLINE = 30.0
"""Seconds after which the measurement is given up."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model beyond its signature.

    Attributes:
        batches: whether rows can be run together.
        sizes: what its dynamic dimensions, other than the batch, can be set to; None where unknown.
        seconds: time of one run of one row; None where unknown.
        size_bytes: of the model's files.
        points: the batch curve on the CPU; empty where unknown.
    """

    batches: bool
    sizes: int | None
    seconds: float | None = None
    size_bytes: int = 0
    points: Sequence[Point] = ()


def without_running(signature: Signature, size_bytes: int) -> Facts:
    """Give what the signature alone tells: a batch only where the names of the dimensions prove it."""
    batches = surely_batches(signature)
    inner = [size for tensor in signature.inputs for size in tensor.shape[1 if batches else 0 :]]
    return Facts(batches, None if any(map(is_dynamic, inner)) else 1, size_bytes=size_bytes)


def probe(model: Path, signature: Signature, cores: int, most: int) -> Facts:
    """Run the ONNX model at `model` a few times, in a process of its own that may crash.

    Args:
        model: the file.
        signature: its inputs and outputs.
        cores: threads of one run.
        most: largest batch, in rows.

    Returns:
        What was found; what the signature alone tells where ONNX Runtime is not installed or the run failed.
        (Triton will then say what is wrong with the model.)
    """
    size_bytes = sum(f.stat().st_size for f in model.parent.iterdir() if f.is_file())
    known = without_running(signature, size_bytes)
    command = [sys.executable, "-m", "longshore_triton.measure", str(model), str(cores), str(most)]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        found = None
    if found is None:
        return known
    return Facts(
        batches=bool(found["batches"]),
        sizes=found["sizes"],
        seconds=found["seconds"],
        size_bytes=size_bytes,
        points=tuple(Point(rows, seconds) for rows, seconds in found["points"]),
    )
