"""The optimize Job and the init container, run as the containers run them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from longshore.artifact.job import REPORT_LIMIT, JobReport, JobRequest, ReportRow
from longshore.artifact.manifest import Manifest, Verdict
from longshore_optimizer import report_message
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.job import fetch_inputs
from longshore_optimizer.request import artifact_key

from tests.optimizer.conftest import mlp
from tests.optimizer.event_files import assert_is_the_table

OPTIMIZER = str(Path(sys.executable).parent / "longshore-optimizer")


def claim(tmp_path: Path, name: str = "models") -> Path:
    path = tmp_path / "pvc" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def job(tmp_path: Path, request: dict[str, Any] | str, command: str = "job", **environment: str) -> Any:
    log = tmp_path / "termination-log"
    log.unlink(missing_ok=True)
    text = request if isinstance(request, str) else json.dumps(request)
    done = subprocess.run(
        [OPTIMIZER, *command.split()],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LONGSHORE_JOB": text,
            "LONGSHORE_TERMINATION_LOG": str(log),
            "LONGSHORE_WORK": str(tmp_path / "work"),
            "LONGSHORE_PVC_ROOT": str(tmp_path / "pvc"),
            "LONGSHORE_FETCH_ATTEMPTS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    raw = log.read_bytes()
    assert len(raw) <= REPORT_LIMIT
    return done, JobReport.model_validate_json(raw)


def request_for(uri: str, store: str = "pvc://models/store", **optimize: Any) -> dict[str, Any]:
    request: dict[str, Any] = {"namespace": "ns", "name": "m", "model": {"uri": uri}, "store": store}
    if optimize:
        request["optimize"] = optimize
    return request


def smallest(digits: Path, home: Path) -> dict[str, Any]:
    """Put the data into the claim, and ask for one candidate that is smaller."""
    for name in ("digits.onnx", "calibration.npz", "evaluation.npz"):
        (home / name).write_bytes((digits / name).read_bytes())
    return request_for(
        "pvc://models/digits.onnx",
        goal="Size",
        techniques=["DynamicInt8"],
        calibration={"uri": "pvc://models/calibration.npz"},
        evaluation={"uri": "pvc://models/evaluation.npz", "maxDrop": 0.02},
        budget={"trials": 1, "time": "5m"},
    )


def test_a_job_stores_an_artifact_once_and_finds_it_again(digits: Path, tmp_path: Path) -> None:
    home = claim(tmp_path)
    request = smallest(digits, home)
    done, report = job(tmp_path, request)
    assert done.returncode == 0, done.stderr
    assert (report.outcome, report.cached, report.format) == ("Succeeded", False, "Onnx")
    assert report.reason == "Optimized"
    assert [r.name for r in report.rows][:2] == ["original", report.chosen]
    assert report.artifact is not None
    stored = home / report.artifact.removeprefix("pvc://models/")
    manifest = Manifest.model_validate_json((stored / "manifest.json").read_text())
    assert manifest.chosen == report.chosen == "dynamic-int8"
    stages = [json.loads(line)["stage"] for line in done.stdout.splitlines()]
    order = ["Fetch", "Verify", "Candidates", "Measure", "Choose", "Store"]
    assert [s for i, s in enumerate(stages) if s not in stages[:i]] == order

    done, again = job(tmp_path, request)
    assert again.cached
    assert (again.artifact, again.artifact_sha256) == (report.artifact, report.artifact_sha256)
    assert "Measure" not in done.stdout
    assert again.rows == report.rows

    # The init container brings exactly these bytes to the pod.
    fetched = tmp_path / "fetched"
    done, third = job(tmp_path, request, f"fetch --out {fetched}", LONGSHORE_ARTIFACT=report.artifact)
    assert done.returncode == 0, done.stderr
    assert third.reason == "Fetched"
    assert (fetched / "model.onnx").read_bytes() == (stored / "model.onnx").read_bytes()
    assert (fetched / "manifest.json").is_file()

    # One that was damaged in the store is refused.
    (stored / "model.onnx").write_bytes((stored / "model.onnx").read_bytes()[:-1] + b"\0")
    done, fourth = job(tmp_path, request, f"fetch --out {tmp_path / 'x'}", LONGSHORE_ARTIFACT=report.artifact)
    assert done.returncode != 0
    assert fourth.reason in ("DigestMismatch", "Truncated", "InvalidModel")
    assert not (tmp_path / "x" / "model.onnx").exists()


def test_another_driver_gets_another_engine_and_scores_no_candidate_again(
    digits: Path, tmp_path: Path
) -> None:
    home = claim(tmp_path)
    request = smallest(digits, home)
    artifacts = set()
    for driver in ("550.54.15", "560.35.03"):
        request["target"] = {"gpu": f"nvidia.com/gpu driver={driver}"}
        done, report = job(tmp_path, request)
        assert done.returncode == 0, done.stderr
        assert not report.cached
        assert report.artifact is not None
        artifacts.add(report.artifact)
        stored = home / report.artifact.removeprefix("pvc://models/")
        manifest = Manifest.model_validate_json((stored / "manifest.json").read_text())
        (export,) = [c for c in manifest.candidates if c.name == "export-TensorRT"]
        assert export.verdict is Verdict.KEPT, "it was asked for by the target, not by the spec"
    assert len(artifacts) == 2
    assert len(list((home / "store").glob("*trials*.json"))) == 1, "both wrote and read the same table"


def test_the_artifact_holds_tensorboards_events_when_asked(digits: Path, tmp_path: Path) -> None:
    home = claim(tmp_path)
    request = smallest(digits, home)
    request["optimize"]["techniques"] = ["DynamicInt8", "StaticInt8"]
    stored = []
    for asked in (False, True):
        request["optimize"]["tensorBoard"] = asked
        done, report = job(tmp_path, request)
        assert done.returncode == 0, done.stderr
        assert not report.cached, "an artifact with events is another one"
        assert report.artifact is not None
        stored.append(home / report.artifact.removeprefix("pvc://models/"))
    without, with_events = stored
    assert not (without / "tensorboard").exists()
    manifest = Manifest.model_validate_json((with_events / "manifest.json").read_text())
    assert len(manifest.candidates) > 2
    assert_is_the_table(with_events / "tensorboard", manifest)
    assert len(list((home / "store").glob("*trials*.json"))) == 1, "what was scored holds for both"


@pytest.mark.parametrize("role", ["teacher", "student"])
async def test_teacher_and_student_are_fetched_and_their_content_decides_the_artifact(
    tmp_path: Path, role: str
) -> None:
    claim_ = claim(tmp_path)
    for name in ("model", "first", "second"):
        mlp(claim_ / f"{name}.onnx", seed=len(name))
    np.savez(claim_ / "t.npz", x=np.zeros((4, 16), np.float32))
    keys = []
    for name in ("first", "second", "first"):
        training = {"uri": "pvc://models/t.npz", role: f"pvc://models/{name}.onnx"}
        asked = request_for("pvc://models/model.onnx", techniques=["Distillation"], training=training)
        request = JobRequest.model_validate(asked)
        settings = FetchSettings(volume_root=tmp_path / "pvc")
        inputs = await fetch_inputs(request, tmp_path / f"work-{len(keys)}", settings)
        assert inputs.data[role].path.read_bytes() == (claim_ / f"{name}.onnx").read_bytes()
        digests = {part: fetched.sha256 for part, fetched in inputs.data.items()}
        keys.append(artifact_key("0" * 64, digests, request.optimize, request.target, "1"))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("signature", [None, {"publicKey": {"secretName": "cosign"}}])
def test_without_optimize_the_model_is_stored_as_it_is(
    tmp_path: Path, signature: dict[str, Any] | None
) -> None:
    # Nothing checks a signature yet: the operator says so (FieldsSupported), and the Job goes on.
    model = mlp(claim(tmp_path) / "model.onnx")
    request = request_for("pvc://models/model.onnx")
    request["model"]["signature"] = signature
    done, report = job(tmp_path, request)
    assert done.returncode == 0, done.stderr
    assert report.chosen == "original"
    assert report.rows == ()
    stored = claim(tmp_path) / str(report.artifact).removeprefix("pvc://models/")
    assert (stored / "model.onnx").read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    ("uri", "reason", "retryable"),
    [
        ("https://127.0.0.1:1/model.onnx", "FetchFailed", True),
        ("pvc://models/missing.onnx", "NotFound", False),
        ("pvc://other/model.onnx", "NotFound", False),
        ("pvc://models/../../etc/passwd", "UnsafeArchive", False),
        ("pvc://models/text.onnx", "UnknownFormat", False),
    ],
)
def test_a_failed_job_reports_reason_and_next_step(
    tmp_path: Path, uri: str, reason: str, retryable: bool
) -> None:
    (claim(tmp_path) / "text.onnx").write_text("hello " * 50)
    for command in ("job", f"fetch --out {tmp_path / 'out'}"):
        done, report = job(tmp_path, request_for(uri), command)
        assert done.returncode != 0
        assert (report.outcome, report.reason, report.retryable) == ("Failed", reason, retryable)
        assert len(report.message) > 30
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("request_text", ["", "{", '{"namespace": "a"}'])
def test_a_broken_request_is_reported(tmp_path: Path, request_text: str) -> None:
    done, report = job(tmp_path, request_text)
    assert done.returncode == 2
    assert report.reason == "InvalidRequest"


def test_the_init_container_names_the_model_and_imports_nothing_heavy(tmp_path: Path) -> None:
    mlp(claim(tmp_path) / "odd-name.onnx")
    out = tmp_path / "out"
    done, _ = job(
        tmp_path, request_for("pvc://models/odd-name.onnx"), f"fetch --out {out}", PYTHONPROFILEIMPORTTIME="1"
    )
    assert done.returncode == 0
    assert [p.name for p in out.iterdir()] == ["model.onnx"]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "httpx" in imported
    assert not imported & {"numpy", "onnx", "onnxruntime", "sklearn", "scipy", "obstore"}


def test_the_init_container_cannot_serve_what_must_be_converted(digits: Path, tmp_path: Path) -> None:
    (claim(tmp_path) / "digits.skops").write_bytes((digits / "digits.skops").read_bytes())
    done, report = job(tmp_path, request_for("pvc://models/digits.skops"), f"fetch --out {tmp_path / 'out'}")
    assert done.returncode != 0
    assert report.reason == "UnsupportedFormat"
    assert "optimize: {}" in report.message


def test_a_report_with_many_rows_fits_into_the_termination_message() -> None:
    rows = tuple(
        ReportRow(name=f"candidate-{i}", verdict=Verdict.REFUSED, drop=0.1, p50_ms=1.5, reason="ü" * 300)
        for i in range(200)
    )
    report = JobReport(outcome="Succeeded", message="m" * 1000, chosen="original", rows=rows)
    raw = report_message.encode(report)
    assert len(raw) <= REPORT_LIMIT
    read = JobReport.model_validate_json(raw)
    assert read.rows_omitted + len(read.rows) == 200
    assert read.rows[0].name == "candidate-0"
    assert read.chosen == "original"
