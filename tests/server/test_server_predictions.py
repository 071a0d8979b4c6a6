"""What a model predicts is counted in bins that two revisions share."""

import asyncio
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
from longshore_server.cost import CostModel
from longshore_server.dtypes import BF16, BYTES, FP32, INT64
from longshore_server.inference import Group, Outputs, Work
from longshore_server.predictions import PredictionMemory, Predictions
from longshore_server.session import Signature, TensorSpec
from prometheus_client.parser import text_string_to_metric_families

from tests.server import models
from tests.server.harness import Server
from tests.server.inprocess import InProcess


def signature(*datatypes: object) -> Signature:
    outputs = tuple(TensorSpec(f"o{i}", d, (-1,), ("",)) for i, d in enumerate(datatypes))  # type: ignore[arg-type]
    return Signature((), outputs)


def counted(
    batches: list[tuple[list[int], list[np.ndarray]]], *datatypes: object, batched: bool = True
) -> dict:
    memory = PredictionMemory(2)
    predictions = Predictions(memory.row(1), lambda: 0.0)
    group = Group(((1,),), batched, CostModel())
    for moment, (rows, arrays) in enumerate(batches):
        works = [Work(group, count, (), 0.0, None) for count in rows]
        predictions.observe(works, Outputs(signature(*datatypes), arrays, batched), float(moment))
    return told(memory.exposition('model="m"'))


def told(text: bytes) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = {"class": Counter(), "value": Counter()}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.labels["kind"]][int(sample.labels["bin"])] += int(sample.value)
    return found


def test_scores_give_a_class_and_a_value_of_the_first_row_of_each_request() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]], np.float32)
    found = counted([([1, 2, 1], [scores])], FP32)
    assert found["class"] == {1: 2, 0: 1}, "rows 0, 1 and 3"
    assert sum(found["value"].values()) == 3


def test_a_label_is_the_class_and_the_scores_beside_it_the_value() -> None:
    labels, scores = np.array([[7], [71], [-1]]), np.array([[0.5, 0.1]] * 3, np.float32)
    found = counted([([1, 1, 1], [labels, scores])], INT64, FP32)
    assert found["class"] == {7: 2, 63: 1}
    assert list(found["value"].values()) == [3]
    names = np.array([["cat"], ["dog"], ["cat"]], object)
    assert sorted(counted([([1, 1, 1], [names])], BYTES)["class"].values()) == [1, 2]


def test_values_are_ordered_and_none_is_too_large_too_small_or_no_number() -> None:
    values = [-1e300, -3.0, -1.0, -1e-30, 0.0, 0.5, 0.51, 0.55, 1.0, 296.0, 320.0, 1e300, np.inf, np.nan]
    bins = []
    for value in values:
        (place,) = counted([([1], [np.array([[value]])])], FP32)["value"]
        bins.append(place)
    assert bins == sorted(bins)
    assert bins[3] == bins[4], "nearly nothing is nothing"
    assert len(set(bins[4:11])) == 7 - 1, "0.5 and 0.51 lie within a step of 3 %"
    assert bins[-1] not in bins[:-1]


def test_other_shapes_and_types_are_counted_by_their_mean_or_not_at_all() -> None:
    images = np.full((2, 3, 8, 8), 0.25, np.float32)
    quarter = set(counted([([1], [np.array([[0.25]], np.float32)])], FP32)["value"])
    assert set(counted([([1, 1], [images])], FP32)["value"]) == quarter
    bits = (np.array([[0.25]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert set(counted([([1], [bits])], BF16)["value"]) == quarter
    assert sum(counted([([1], [np.float32(0.25).reshape(())])], FP32, batched=False)["value"].values()) == 1
    for empty in (np.zeros((0, 4), np.float32), np.zeros((0,), np.float32), np.zeros((1, 0), np.float32)):
        assert not any(counted([([1], [empty])], FP32, batched=False)["value"].values())
    assert not any(counted([([1], [np.zeros((0, 1), np.int64)])], INT64, batched=False)["class"].values())


def test_at_most_a_thousand_batches_a_second_count() -> None:
    memory = PredictionMemory(1)
    predictions = Predictions(memory.row(0), lambda: 0.0)
    work = [Work(Group(((1,),), True, CostModel()), 1, (), 0.0, None)]
    outputs = Outputs(signature(FP32), [np.array([[0.1, 0.9]], np.float32)], True)
    for tick in range(5000):
        predictions.observe(work, outputs, tick * 1e-4)
    assert 450 <= told(memory.exposition(""))["class"][1] <= 510


def test_wide_outputs_are_counted_less_often() -> None:
    memory, ticks = PredictionMemory(1), itertools.count()
    predictions = Predictions(memory.row(0), lambda: next(ticks) * 1e-4)  # each count takes 0.1 ms
    work = [Work(Group(((1,),), True, CostModel()), 1, (), 0.0, None)]
    outputs = Outputs(signature(FP32), [np.array([[0.1, 0.9]], np.float32)], True)
    for tick in range(5000):
        predictions.observe(work, outputs, tick * 1e-4)
    assert 49 <= told(memory.exposition(""))["class"][1] <= 50


async def test_what_is_answered_is_counted(tmp_path: Path) -> None:
    server = InProcess(models.mlp(tmp_path / "mlp"))
    body = (
        b'{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":[' + b",".join([b"1"] * 16) + b"]}]}"
    )
    head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    answer, _ = await server.http_answer(head + body)
    assert b"200 OK" in answer
    await asyncio.sleep(0)
    found = told(server.metrics.predictions())
    assert sum(found["class"].values()) == sum(found["value"].values()) == 1


def test_it_is_asked_under_a_path_of_its_own(tmp_path: Path) -> None:
    with Server(models.mlp(tmp_path / "mlp")) as server:
        request = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [1] * 16}]}
        assert server.infer(request)[0] == 200
        status, headers, body = server.request("GET", "/metrics/predictions")
        assert status == 200
        assert "version=0.0.4" in headers["content-type"]
        assert sum(told(body)["class"].values()) == 1
        assert b"longshore_predictions" not in server.request("GET", "/metrics")[2]
