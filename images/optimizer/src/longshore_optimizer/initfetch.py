"""The init container: fetches the model or a stored artifact, verifies it, and leaves `model.onnx` in a
directory.

It imports neither numpy nor a runtime, so that it starts in a fraction of a second.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from longshore.artifact.job import JobReport, JobRequest, Outcome
from longshore.artifact.manifest import MANIFEST_NAME, MODEL_NAME, SAMPLES_NAME

from longshore_optimizer import modeldir
from longshore_optimizer.errors import EXIT_FAILED, EXIT_OK, Problem, Reason, exit_code
from longshore_optimizer.fetch import content
from longshore_optimizer.fetch.settings import FetchSettings, from_environment
from longshore_optimizer.fetch.sink import disk_problem
from longshore_optimizer.fetch.source import fetch


def run(request: JobRequest | None, artifact: str | None, out: Path, settings: FetchSettings) -> JobReport:
    """Fetch into `out`.

    Raises:
        Problem: any reason of fetching, UnsupportedFormat where the model must be converted first.
    """
    if artifact is None and request is None:
        raise Problem(
            Reason.INVALID_REQUEST,
            "neither LONGSHORE_JOB nor LONGSHORE_ARTIFACT is set: let the operator start this program, or "
            "set LONGSHORE_ARTIFACT to the uri of an artifact",
        )
    uri = artifact or (request.model.uri if request else "")
    expected = (
        os.environ.get("LONGSHORE_ARTIFACT_SHA256") if artifact else request.model.sha256 if request else None
    )
    if artifact is not None and request is not None and request.store_plain_http:
        host = request.store.removeprefix("oci://").split("/", 1)[0]
        settings = replace(settings, plain_http_hosts=settings.plain_http_hosts | {host})
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out) as folder:
            fetched = asyncio.run(fetch(uri, Path(folder), settings, expected))
            _place(fetched.path, out, request)
    except OSError as error:
        raise disk_problem(error, str(out)) from error
    return JobReport(
        outcome=Outcome.SUCCEEDED,
        reason="Fetched",
        message=f"{uri} is verified and ready",
        artifact=artifact,
        artifact_sha256=fetched.sha256 if artifact else None,
        input_sha256=None if artifact else fetched.sha256,
    )


def _place(fetched: Path, out: Path, request: JobRequest | None) -> None:
    """Check what was fetched and copy it to `out`, the model last."""
    source = modeldir.identify(modeldir.locate(fetched), request.model.format if request else None)
    if source.container == content.TRITON:
        shutil.copytree(source.path, out, dirs_exist_ok=True)
        return
    if source.container != content.ONNX:
        raise Problem(
            Reason.UNSUPPORTED_FORMAT,
            f"the model is {source.format.value}, which must be converted first: add `optimize: {{}}` to "
            "the spec, or "
            "deploy an ONNX model",
        )
    outline = modeldir.check_onnx(source.path)
    manifest = source.path.parent / MANIFEST_NAME
    if manifest.is_file() and source.path.name == MODEL_NAME:
        _check_manifest(manifest, source.path)
        shutil.copyfile(manifest, out / MANIFEST_NAME)
    for name in modeldir.external_files(outline):
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path.parent / name, target)
    recorded = source.path.parent / SAMPLES_NAME
    if recorded.is_file() and not recorded.is_symlink():
        shutil.copyfile(recorded, out / SAMPLES_NAME)
    extra = source.path.parent / "cascade.json"
    if extra.is_file():
        shutil.copytree(
            source.path.parent, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MODEL_NAME)
        )
    shutil.copyfile(source.path, out / f".{MODEL_NAME}")
    os.replace(out / f".{MODEL_NAME}", out / MODEL_NAME)


def _check_manifest(manifest: Path, model: Path) -> None:
    try:
        wanted = json.loads(manifest.read_text())["output"]["sha256"]
    except (ValueError, KeyError, TypeError):
        # A manifest.json of somebody else's says nothing about this model.
        return
    found = modeldir.onnx_sha256(model)
    if found != wanted:
        raise Problem(
            Reason.DIGEST_MISMATCH,
            f"the artifact's model has sha256 {found}, its manifest says {wanted}: the store is damaged; "
            "delete the "
            "artifact so that it is made again",
        )


def main(out: Path) -> int:
    """Run as init container and report; gives the exit code."""
    from longshore_optimizer import report_message
    from longshore_optimizer.job import read_request

    artifact = os.environ.get("LONGSHORE_ARTIFACT") or None
    try:
        request = read_request() if os.environ.get("LONGSHORE_JOB") else None
        report = run(request, artifact, out, from_environment())
    except Problem as problem:
        sys.stderr.write(f"{problem.reason}: {problem.message}\n")
        report_message.write(report_message.failed(problem))
        return exit_code(problem.reason)
    except Exception as error:  # noqa: BLE001 - whatever happens must be reported
        cause = f"{type(error).__name__}: {error}"
        unknown = Problem(Reason.INTERNAL_ERROR, f"fetching failed unexpectedly ({cause}): see the log")
        report_message.write(report_message.failed(unknown))
        return EXIT_FAILED
    report_message.write(report)
    return EXIT_OK
