"""Subnormal weights slow every product down and show in no answer: they are gone before anything is tried."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from longshore_optimizer.measure.session import open_session
from longshore_optimizer.techniques.prepare import prepare
from onnx import numpy_helper

from tests.optimizer.conftest import mlp
from tests.optimizer.technique_bench import work

TINY = np.finfo(np.float32).tiny


def with_subnormals(path: Path) -> Path:
    model = onnx.load(mlp(path))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[::3] = TINY / 8
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return path


def subnormal(path: Path) -> int:
    weights = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    return sum(int(((w != 0) & (np.abs(w) < TINY)).sum()) for w in weights)


def test_they_are_zero_afterwards_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    model = with_subnormals(tmp_path / "model.onnx")
    before = subnormal(model)
    wanted = work(model, tmp_path / "prepared", None)
    assert prepare(wanted) == before > 100
    assert subnormal(wanted.out) == 0
    x = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    first, second = (open_session(path, 1).run(None, {"x": x})[0] for path in (model, wanted.out))
    np.testing.assert_array_equal(first, second)
    assert prepare(work(mlp(tmp_path / "plain.onnx"), tmp_path / "again", None)) == 0


def test_a_model_that_has_them_gets_a_candidate_without(tmp_path: Path) -> None:
    model = with_subnormals(tmp_path / "model.onnx")
    out = tmp_path / "out"
    command = [str(Path(sys.executable).parent / "longshore"), "optimize", str(model), "--out", str(out)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    (slim,) = [c for c in json.loads(done.stdout)["candidates"] if c["name"] == "graph-slim"]
    assert slim["verdict"] != "Skipped", slim["reason"]
    assert slim["p50Ms"]
