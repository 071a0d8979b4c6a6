"""Reads TensorBoard's event files back, and tells what TensorBoard shows of them."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from longshore.artifact.manifest import Manifest, Verdict
from longshore_optimizer.event_records import END_TAG, START_TAG, Event, HParamsPluginData, masked_crc32c
from longshore_optimizer.events import SCALARS

SUCCESS, FAILURE = 1, 2
"""Of the Status in TensorBoard's api.proto."""


def read(file: Path) -> Iterator[Any]:
    """The events of a file, its checksums checked."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        checks = struct.unpack("<I", data[8:12]) + struct.unpack("<I", data[12 + length : 16 + length])
        assert checks == (masked_crc32c(data[:8]), masked_crc32c(body))
        yield Event.FromString(body)
        data = data[16 + length :]


@dataclass
class Run:
    """What TensorBoard shows of a run: all points of each scalar, and the starts and ends of sessions."""

    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    hyperparameters: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def scalars(self) -> dict[str, float]:
        return {tag: points[-1][1] for tag, points in self.points.items()}


def run_of(directory: Path) -> Run:
    run = Run()
    (file,) = directory.iterdir()
    assert "tfevents" in file.name
    first, *rest = read(file)
    assert first.file_version == "brain.Event:2"
    for event in rest:
        (value,) = event.summary.value
        if value.tag in (START_TAG, END_TAG):
            assert value.metadata.plugin_data.plugin_name == "hparams"
            data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            if value.tag == START_TAG:
                kinds = {k: v.WhichOneof("kind") for k, v in data.session_start_info.hparams.items()}
                named = data.session_start_info.hparams
                run.hyperparameters.append({k: getattr(named[k], kind) for k, kind in kinds.items()})
            else:
                run.statuses.append(data.session_end_info.status)
        else:
            run.points.setdefault(value.tag, []).append((event.step, value.simple_value))
    return run


def runs_of(directory: Path) -> dict[str, Run]:
    return {path.name: run_of(path) for path in directory.iterdir()}


def assert_is_the_table(directory: Path, manifest: Manifest) -> None:
    runs = runs_of(directory)
    assert set(runs) == {row.name for row in manifest.candidates}
    for row in manifest.candidates:
        run = runs[row.name]
        known = {tag: getattr(row, tag) for tag in SCALARS if getattr(row, tag) is not None}
        finite = {tag: value for tag, value in known.items() if math.isfinite(value)}
        assert run.scalars == pytest.approx(finite, rel=1e-6)
        (hyperparameters,) = run.hyperparameters
        assert hyperparameters["technique"] == row.technique
        assert hyperparameters["verdict"] == row.verdict.value
        for name, value in row.parameters.items():
            if isinstance(value, str | bool | int | float):
                assert hyperparameters[name] == value
        assert run.statuses == [FAILURE if row.verdict is Verdict.FAILED else SUCCESS]
