"""`longshore optimize` as a user runs it."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from longshore.artifact.manifest import Manifest

from tests.realmodels import rapidocr_model

LONGSHORE = str(Path(sys.executable).parent / "longshore")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LONGSHORE, "optimize", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def accuracy(model: Path, data: Path) -> float:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    with np.load(data) as stored:
        x, labels = stored["X"], stored["labels"]
    return float(np.mean(session.run(["label"], {session.get_inputs()[0].name: x})[0] == labels))


@pytest.fixture(scope="module")
def optimized(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("result") / "artifact"
    done = run(
        digits / "digits.onnx", "--calibration", digits / "calibration.npz", "--evaluation",
        digits / "evaluation.npz", "--metric", "accuracy", "--max-drop", 0.02, "--goal", "size", "--out", out,
        "--trials", 12, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_json_is_the_manifest_that_was_written(optimized: tuple[Path, dict[str, object]]) -> None:
    out, printed = optimized
    assert printed == json.loads((out / "manifest.json").read_text())
    files = {"manifest.json", "model.onnx", "report.html", "report.md", "samples.jsonl"}
    assert {p.name for p in out.iterdir()} == files


def test_the_manifest_has_the_promised_fields(
    optimized: tuple[Path, dict[str, object]], digits: Path
) -> None:
    out, manifest = optimized
    assert manifest["input"] == {
        "sha256": hashlib.sha256((digits / "digits.onnx").read_bytes()).hexdigest(),
        "format": "Onnx",
        "uri": None,
        "sizeBytes": (digits / "digits.onnx").stat().st_size,
    }
    model = (out / "model.onnx").read_bytes()
    assert manifest["output"]["sha256"] == hashlib.sha256(model).hexdigest()
    assert manifest["output"]["sizeBytes"] == len(model)
    assert set(manifest["environment"]) >= {"cpuFlags", "versions", "seed"}
    for row in manifest["candidates"]:
        assert set(row) >= {
            "name", "technique", "parameters", "metric", "drop", "dropUpper", "p50Ms", "p95Ms", "cpuMs",
            "sizeBytes", "verdict", "reason",
        }  # fmt: skip
        assert row["reason"]
        assert (row["cpuMs"] or 0) > 0 or row["p50Ms"] is None


def test_the_chosen_model_is_smaller_and_within_the_proven_drop(
    optimized: tuple[Path, dict[str, object]], digits: Path
) -> None:
    out, _ = optimized
    manifest = Manifest.model_validate_json((out / "manifest.json").read_text())
    chosen = next(c for c in manifest.candidates if c.name == manifest.chosen)
    original = next(c for c in manifest.candidates if c.name == "original")
    assert chosen.verdict == "Chosen"
    assert (chosen.drop_upper or 0) <= 0.02
    assert (chosen.size_bytes or 0) < 0.6 * (original.size_bytes or 0)
    measured = accuracy(out / "model.onnx", digits / "evaluation.npz")
    before = accuracy(digits / "digits.onnx", digits / "evaluation.npz")
    assert chosen.metric == pytest.approx(measured, abs=1e-9)
    assert original.metric == pytest.approx(before, abs=1e-9)
    assert chosen.drop == pytest.approx(before - measured, abs=1e-9)


def test_every_technique_of_the_base_package_was_tried(optimized: tuple[Path, dict[str, object]]) -> None:
    techniques = {row["technique"] for row in optimized[1]["candidates"]}
    assert {"Original", "Float16", "DynamicInt8", "StaticInt8"} <= techniques


def test_a_table_is_printed_without_json(digits: Path, tmp_path: Path) -> None:
    done = run(digits / "digits.onnx", "--out", tmp_path / "out", "--trials", 1)
    assert done.returncode == 0, done.stderr
    assert "original" in done.stdout
    # What nothing is lost by may be a little faster, and is chosen then.
    path = re.escape(str(tmp_path / "out" / "model.onnx"))
    assert re.search(rf"chosen: (original|graph-slim)   {path} ", done.stdout)


def test_a_large_real_model_keeps_its_answers_without_data(tmp_path: Path) -> None:
    source = rapidocr_model("ch_ppocr_mobile_v2.0_cls_mobile.onnx")
    done = run(source, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    manifest = Manifest.model_validate_json(done.stdout)
    for row in manifest.candidates:
        assert row.verdict != "Chosen" or row.technique in ("Original", "Graph")
    x = np.random.default_rng(0).random((1, 3, 48, 192), dtype=np.float32)
    answers = []
    for path in (source, tmp_path / "out" / "model.onnx"):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {session.get_inputs()[0].name: x})[0])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--metric", "nonsense"], 2, "UnknownMetric"),
        (["--goal", "beauty"], 2, "InvalidRequest"),
        (["--technique", "magic"], 2, "UnknownTechnique"),
        (["--time", "soon"], 2, "InvalidRequest"),
        (["--sha256", "0" * 64], 3, "DigestMismatch"),
        (["--calibration", "/nowhere.npz"], 3, "NotFound"),
    ],
)
def test_wrong_usage_has_an_exit_code_and_a_sentence(
    digits: Path, tmp_path: Path, arguments: list[str], code: int, word: str
) -> None:
    done = run(digits / "digits.onnx", "--out", tmp_path / "out", *arguments)
    assert done.returncode == code
    assert word in done.stderr
    assert not (tmp_path / "out").exists()
