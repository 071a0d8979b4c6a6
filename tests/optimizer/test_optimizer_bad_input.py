"""Bad input: each case gives its own reason, a sentence with the next step, and no half-written artifact."""

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from longshore.api.optimize import Metric, OnMiss, TechniqueName
from longshore.artifact.manifest import Manifest
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.sink import file_sha256
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.pipeline import optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import labelled, mlp, save


def request_for(model: Path, tmp_path: Path, **changes: Any) -> Request:
    base = Request(
        model=model,
        input_sha256=file_sha256(model) if model.is_file() else "0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        techniques=(TechniqueName.FLOAT16,),
        seconds=120,
    )
    return replace(base, **changes)


def refused(request: Request) -> Problem:
    with pytest.raises(Problem) as caught:
        optimize(request, Reporter())
    assert not request.out.exists()
    assert not list(request.out.parent.glob(".out*"))
    return caught.value


def external(path: Path, location: str) -> Path:
    """A model whose first weight lies in another file."""
    mlp(path)
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    (path.parent / "weights.bin").write_bytes(weight.raw_data)
    length = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    return path


def test_a_text_file_called_model_onnx(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("this is not a model\n" * 20)
    problem = refused(request_for(tmp_path / "model.onnx", tmp_path))
    assert problem.reason is Reason.UNKNOWN_FORMAT
    assert "it is a text file; check that the uri names the model itself" in problem.message


@pytest.mark.parametrize(
    ("content", "word", "step"),
    [
        (b"", "empty", "upload the model again"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML", "correct it so that it gives the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "run `git lfs pull`"),
        (b'{"a": 1}', "JSON", "check that the uri names the model"),
        (b"\x00\xff" * 40, "not recognised", "export it to ONNX"),
    ],
    ids=["nothing", "page", "pointer", "json", "bytes"],
)
def test_what_often_comes_instead_of_a_model_is_named(
    tmp_path: Path, content: bytes, word: str, step: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    problem = refused(request_for(tmp_path / "model.onnx", tmp_path))
    assert problem.reason is Reason.UNKNOWN_FORMAT
    cause, _, rest = problem.message.rpartition("; ")
    assert word in cause
    assert step in rest


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    whole = mlp(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[: int(len(whole) * share)])
    problem = refused(request_for(tmp_path / "model.onnx", tmp_path))
    assert problem.reason is Reason.TRUNCATED
    assert "upload the model again" in problem.message


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "link.bin", "dir/x.bin"]
)
def test_external_data_that_leaves_the_directory(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8192)
    home = tmp_path / "model"
    home.mkdir()
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    (home / "dir").symlink_to(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\0" * 8192)
    problem = refused(request_for(external(home / "model.onnx", location), tmp_path))
    assert problem.reason is Reason.EXTERNAL_DATA_ESCAPES
    assert location in problem.message


def test_external_data_that_is_not_there_or_too_short(tmp_path: Path) -> None:
    model = external(tmp_path / "model" / "model.onnx", "missing.bin")
    assert refused(request_for(model, tmp_path)).reason is Reason.EXTERNAL_DATA_MISSING
    (model.parent / "missing.bin").write_bytes(b"\0" * 10)
    assert refused(request_for(model, tmp_path)).reason is Reason.TRUNCATED


def test_external_data_beside_the_model_is_kept(tmp_path: Path) -> None:
    model = external(tmp_path / "model" / "model.onnx", "weights.bin")
    manifest = optimize(request_for(model, tmp_path, optimize=False), Reporter())
    assert (tmp_path / "out" / "weights.bin").is_file()
    assert manifest.output.size_bytes == model.stat().st_size + (model.parent / "weights.bin").stat().st_size


def test_an_operator_that_the_runtime_lacks_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Teleport", ["x"], ["y"], domain="com.example")],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    save(tmp_path / "model.onnx", graph, **{"com.example": 1})
    problem = refused(request_for(tmp_path / "model.onnx", tmp_path))
    assert problem.reason is Reason.UNSUPPORTED_OPERATOR
    assert "com.example:Teleport" in problem.message


def test_a_standard_operator_that_does_not_exist_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Teleport", ["x"], ["y"])],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    save(tmp_path / "model.onnx", graph)
    problem = refused(request_for(tmp_path / "model.onnx", tmp_path))
    assert problem.reason is Reason.UNSUPPORTED_OPERATOR
    assert "Teleport" in problem.message


def test_a_pickle_without_opt_in_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Bomb()))
    problem = refused(request_for(tmp_path / "model.pkl", tmp_path))
    assert problem.reason is Reason.PICKLE_NOT_ALLOWED
    assert "allowPickle" in problem.message
    assert not marker.exists()


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("arrays", "reason", "word"),
    [
        ({"x": np.zeros((8, 17), np.float32)}, Reason.DATA_SHAPE_MISMATCH, "(n, 16)"),
        ({"x": np.zeros((8, 16, 2, 2), np.float32)}, Reason.DATA_SHAPE_MISMATCH, "(8, 16, 2, 2)"),
        ({"x": np.zeros((8, 16), np.int64)}, Reason.DATA_TYPE_MISMATCH, "int64"),
        ({"x": np.full((8, 16), "a")}, Reason.DATA_TYPE_MISMATCH, "float32"),
        ({"x": np.zeros((0, 16), np.float32)}, Reason.EMPTY_DATA, "empty"),
        ({"x": np.full((8, 16), np.nan, np.float32)}, Reason.INVALID_DATA, "NaN"),
        ({"a": np.zeros((8, 16)), "b": np.zeros(8)}, Reason.INVALID_DATA, "'x'"),
        ({"x": np.array([{}, {}], dtype=object)}, Reason.INVALID_DATA, "Python objects"),
    ],
)
def test_calibration_data_that_does_not_fit(
    tmp_path: Path, arrays: dict[str, Any], reason: Reason, word: str
) -> None:
    model = mlp(tmp_path / "model.onnx")
    data = write(tmp_path / "data.npz", **arrays)
    problem = refused(request_for(model, tmp_path, calibration=data))
    assert problem.reason is reason
    assert word in problem.message
    assert "calibration" in problem.message


def test_evaluation_data_that_is_empty_unlabelled_or_misaligned(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx")
    x = np.zeros((8, 16), np.float32)
    cases = [
        ({"x": x[:0], "labels": np.zeros(0, np.int64)}, Reason.EMPTY_DATA),
        ({"x": x}, Reason.LABELS_MISSING),
        ({"x": x, "labels": np.zeros(7, np.int64)}, Reason.INVALID_DATA),
        ({"x": x, "labels": np.zeros((8, 3, 3), np.int64)}, Reason.METRIC_FAILED),
    ]
    for number, (arrays, reason) in enumerate(cases):
        data = write(tmp_path / f"{number}.npz", **arrays)
        assert refused(request_for(model, tmp_path, evaluation=data)).reason is reason


def test_data_that_is_no_npz(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx")
    (tmp_path / "data.npz").write_text("a,b,c\n1,2,3\n")
    assert (
        refused(request_for(model, tmp_path, evaluation=tmp_path / "data.npz")).reason is Reason.INVALID_DATA
    )
    (tmp_path / "empty").mkdir()
    assert refused(request_for(model, tmp_path, evaluation=tmp_path / "empty")).reason is Reason.EMPTY_DATA


def test_nan_outputs(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Log", ["x"], ["y"])],
        "log",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    save(tmp_path / "model.onnx", graph)
    data = write(tmp_path / "data.npz", x=-np.ones((8, 4), np.float32), labels=np.zeros(8, np.int64))
    problem = refused(request_for(tmp_path / "model.onnx", tmp_path, evaluation=data))
    assert problem.reason is Reason.NAN_OUTPUT
    assert "'y'" in problem.message


def test_data_that_the_model_fails_on(tmp_path: Path) -> None:
    table = numpy_helper.from_array(np.ones((4, 3), np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [table],
    )
    save(tmp_path / "model.onnx", graph)
    data = write(tmp_path / "data.npz", i=np.array([0, 1, 99]), labels=np.zeros(3, np.int64))
    problem = refused(request_for(tmp_path / "model.onnx", tmp_path, evaluation=data))
    assert problem.reason is Reason.INFERENCE_FAILED


def test_no_candidate_within_max_drop_and_on_miss_fail(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    data = labelled(tmp_path / "data.npz", model, {"x": x})
    request = request_for(model, tmp_path, evaluation=data, max_drop=0.0, on_miss=OnMiss.FAIL)
    problem = refused(request)
    assert problem.reason is Reason.NO_CANDIDATE
    assert "maxDrop" in problem.message
    assert "onMiss" in problem.message
    manifest: Manifest = optimize(replace(request, on_miss=OnMiss.SERVE_ORIGINAL), Reporter())
    assert manifest.chosen == "original"
    assert (tmp_path / "out" / "model.onnx").read_bytes() == model.read_bytes()


def test_a_metric_that_does_not_fit_the_model(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx")
    data = write(tmp_path / "data.npz", x=np.ones((8, 16), np.float32), labels=np.zeros(8, np.float32))
    problem = refused(request_for(model, tmp_path, evaluation=data, metric=Metric.RMSE))
    assert problem.reason is Reason.METRIC_FAILED
    assert "choose a metric" in problem.message
