"""Ready means that it has answered: inputs made up from its own shapes, else rows recorded beside it."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from longshore_server.artifact import SAMPLES_FILE, locate
from longshore_server.loading import Loaded, load
from longshore_server.session import SessionOptions
from onnx import TensorProto, helper

from tests.server import models
from tests.server.harness import Server, failed_start

WIDTH = 17 * 23
"""A length that no guess hits: the model takes its rows apart into 17 by 23."""

WITHOUT_PROOF = "ready without proof"


def particular(directory: Path) -> Path:
    """x [N, L] -> y [N], the mean, for L = 391 alone."""
    return models.save(
        directory,
        [
            helper.make_node("Reshape", ["x", "parts"], ["table"]),
            helper.make_node("ReduceMean", ["table"], ["y"], axes=[1, 2], keepdims=0),
        ],
        [("x", TensorProto.FLOAT, ["N", "L"])],
        [("y", TensorProto.FLOAT, ["N"])],
        {"parts": np.array([0, 17, 23])},
    )


def words(directory: Path) -> Path:
    """word [N, 1] of text -> y [N, 1], its length as a number: for the text of a number alone."""
    return models.save(
        directory,
        [helper.make_node("Cast", ["word"], ["y"], to=TensorProto.FLOAT)],
        [("word", TensorProto.STRING, ["N", 1])],
        [("y", TensorProto.FLOAT, ["N", 1])],
    )


def record(directory: Path, *rows: Any, name: str = "x", datatype: str = "FP32") -> None:
    lines = [
        {"inputs": [{"name": name, "datatype": datatype, "shape": list(np.shape(row)), "data": row}]}
        for row in rows
    ]
    (directory / SAMPLES_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def rows(width: int, count: int = 3) -> list[Any]:
    generator = np.random.default_rng(0)
    return [generator.random((1, width), np.float32).tolist() for _ in range(count)]


def loaded(directory: Path) -> Loaded:
    return load(locate(directory), SessionOptions(), "auto", 8, lambda count: None)


def test_rows_beside_the_model_prove_what_no_made_up_size_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(particular(tmp_path), *rows(WIDTH))
    with caplog.at_level(logging.WARNING):
        found = loaded(tmp_path)
    assert found.batched, "the rows prove too that they may be joined"
    assert found.cost.predict(1) > 0
    assert not caplog.messages


def test_text_of_a_kind_is_found_among_the_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(words(tmp_path), [["12"]], [["3.5"]], name="word", datatype="BYTES")
    with caplog.at_level(logging.WARNING):
        assert loaded(tmp_path).batched
    assert not caplog.messages


def test_one_odd_row_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(particular(tmp_path), *rows(WIDTH - 1, 1), *rows(WIDTH, 1))
    with caplog.at_level(logging.WARNING):
        assert not loaded(tmp_path).batched, "one row proves nothing about two"
    (message,) = caplog.messages
    assert "not shown that the model's answers stay the same when rows run together" in message
    assert "--batching on" in message


def test_a_model_that_fails_on_its_own_rows_is_not_served(tmp_path: Path) -> None:
    record(particular(tmp_path), *rows(WIDTH - 1))
    code, line = failed_start(tmp_path)
    assert code == 70
    assert "fails on the rows of its evaluation data that lie beside it" in line
    assert "optimize it again" in line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}\n",
        "[1]\n",
        "not json\n",
        '{"inputs": [{"name": "other", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}\n',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 9], "data": [1, 2]}]}\n',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": ["a", {}]}]}\n',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": ["1", 2], "data": [1, 2]}]}\n',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": null, "data": [1, 2]}]}\n',
        '{"inputs": 7}\n',
    ],
)
def test_what_is_no_request_for_the_model_is_not_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (particular(tmp_path) / SAMPLES_FILE).write_text(text)
    with caplog.at_level(logging.WARNING):
        assert not loaded(tmp_path).batched
    assert WITHOUT_PROOF in caplog.text


def test_without_rows_it_says_that_it_is_ready_without_proof(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not loaded(particular(tmp_path)).batched
    assert WITHOUT_PROOF in caplog.text


def test_it_answers_what_was_recorded(tmp_path: Path) -> None:
    asked = rows(WIDTH, 1)
    record(particular(tmp_path), *asked)
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": asked[0]}]}
    with Server(tmp_path) as server:
        status, answer = server.infer(document)
    assert status == 200
    assert answer["outputs"][0]["data"] == pytest.approx([np.mean(asked[0])], rel=1e-5)
