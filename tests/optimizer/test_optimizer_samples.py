"""A few rows of the user's data become requests that lie in the artifact."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from longshore_optimizer.data import Dataset, Shard, TensorSpec
from longshore_optimizer.samples import LARGEST, MOST, write


def dataset(*shards: dict[str, Any]) -> Dataset:
    return Dataset("evaluation", tuple(Shard(arrays, None) for arrays in shards))


def written(data: Dataset, inputs: list[TensorSpec], count: int, file: Path) -> list[dict[str, Any]]:
    write(data, inputs, count, file)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_rows_are_spread_over_the_data_and_its_shards(tmp_path: Path) -> None:
    first = {"x": np.arange(6, dtype=np.float32).reshape(6, 1)}
    second = {"x": np.arange(6, 9, dtype=np.float32).reshape(3, 1)}
    found = written(
        dataset(first, second), [TensorSpec("x", "float32", (None, 1))], 5, tmp_path / "samples.jsonl"
    )
    assert [line["inputs"][0]["data"] for line in found] == [[0.0], [2.0], [4.0], [6.0], [8.0]]
    assert all(line["inputs"][0]["shape"] == [1, 1] for line in found)


def test_values_come_back_bit_for_bit_in_the_protocols_words(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 50)).astype(np.float32)
    arrays = {
        "x": x,
        "half": x.astype(np.float16),
        "ids": np.array([[2**53 + 1, -1]]),
        "mask": np.array([[True, False]]),
        "text": np.array([["café", "b"]], dtype=object),
    }
    inputs = [
        TensorSpec("x", "float32", (None, 50)),
        TensorSpec("half", "float16", (None, 50)),
        TensorSpec("ids", "int64", (None, 2)),
        TensorSpec("mask", "bool", (None, 2)),
        TensorSpec("text", "object", (None, 2)),
    ]
    (line,) = written(dataset(arrays), inputs, 4, tmp_path / "samples.jsonl")
    values = {tensor["name"]: tensor["data"] for tensor in line["inputs"]}
    assert np.array_equal(np.array(values["x"], np.float32), x[0])
    assert np.array_equal(np.array(values["half"], np.float16), arrays["half"][0])
    assert (values["ids"], values["mask"], values["text"]) == (
        [2**53 + 1, -1],
        [True, False],
        ["café", "b"],
    )
    assert [t["datatype"] for t in line["inputs"]] == ["FP32", "FP16", "INT64", "BOOL", "BYTES"]


def test_an_input_without_a_batch_axis_gets_whole_samples(tmp_path: Path) -> None:
    spec = [TensorSpec("x", "float32", (2, 2))]
    found = written(dataset({"x": np.ones((3, 2, 2), np.float32)}), spec, 2, tmp_path / "samples.jsonl")
    assert [line["inputs"][0]["shape"] for line in found] == [[2, 2], [2, 2]]


@pytest.mark.parametrize("rows", [1, 40])
def test_the_file_stays_small_and_is_left_out_where_no_row_is(tmp_path: Path, rows: int) -> None:
    spec = [TensorSpec("x", "float32", (None, None))]
    large = np.random.default_rng(0).standard_normal((rows, 100_000)).astype(np.float32)
    file = tmp_path / "samples.jsonl"
    found = written(dataset({"x": large}), spec, MOST, file)
    assert 1 <= len(found) <= 4
    assert file.stat().st_size <= LARGEST
    none = tmp_path / "none.jsonl"
    assert not written(dataset({"x": np.ones((1, 2_000_000), np.float32)}), spec, MOST, none)
    assert not none.exists()
