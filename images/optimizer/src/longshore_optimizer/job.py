"""The optimize Job: fetch, verify, convert, candidates, measure, choose, store, report."""

import asyncio
import os
import shutil
import signal
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from longshore.api.model import SecretReference
from longshore.api.optimize import Data, Export, Optimize
from longshore.artifact.job import REQUEST_VARIABLE, JobReport, JobRequest, Outcome, Progress, Target
from longshore.artifact.manifest import EVENTS_NAME
from pydantic import ValidationError

from longshore_optimizer import report_message
from longshore_optimizer.errors import EXIT_FAILED, EXIT_OK, Problem, Reason, exit_code
from longshore_optimizer.fetch.settings import FetchSettings, from_environment
from longshore_optimizer.fetch.source import Fetched, fetch

if TYPE_CHECKING:
    from longshore_optimizer.store.base import Stored

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""What Kubernetes tells the pods of an Indexed Job
(https://kubernetes.io/docs/concepts/workloads/controllers/job/)."""

_PARTS = ("calibration", "evaluation", "training")
_METRIC = "metric"
_MODELS = ("teacher", "student")


def read_request() -> JobRequest:
    """Read the request from the environment.

    Raises:
        Problem: InvalidRequest.
    """
    text = os.environ.get(REQUEST_VARIABLE)
    if not text:
        raise Problem(
            Reason.INVALID_REQUEST,
            f"the environment variable {REQUEST_VARIABLE} is not set: let the operator start this program, "
            "or use `longshore optimize` by hand",
        )
    try:
        return JobRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise Problem(
            Reason.INVALID_REQUEST,
            f"{REQUEST_VARIABLE} is not valid at {where} ({first['msg']}): use the images of one release for "
            "operator and optimizer",
        ) from error


def credentials_directory(part: str, reference: SecretReference | None, default: Path | None) -> Path | None:
    """Where the Secret for a part of the request is mounted: `LONGSHORE_CREDENTIALS_<PART>`, else the
    model's."""
    mounted = os.environ.get(f"LONGSHORE_CREDENTIALS_{part.upper()}")
    if mounted:
        return Path(mounted)
    if reference is not None and default is None:
        raise Problem(
            Reason.CREDENTIALS_MISSING,
            f"the Secret {reference.secret_name} for {part} is not mounted: create it in the same namespace",
        )
    return default


@dataclass(frozen=True)
class Inputs:
    """Everything that was fetched."""

    model: Fetched
    data: dict[str, Fetched]


def _sources(optimize: Optimize | None) -> dict[str, Data]:
    """Give what is fetched besides the model, by the name of its part."""
    if optimize is None:
        return {}
    found: dict[str, Data | None] = {part: getattr(optimize, part) for part in _PARTS}
    if optimize.evaluation is not None:
        found[_METRIC] = optimize.evaluation.function
    for part in _MODELS if optimize.training is not None else ():
        uri = getattr(optimize.training, part)
        found[part] = Data(uri=uri) if uri is not None else None
    return {part: source for part, source in found.items() if source is not None}


async def fetch_inputs(request: JobRequest, work: Path, settings: FetchSettings) -> Inputs:
    """Fetch the model, then the data sets.

    Raises:
        Problem: any reason of fetching.
    """
    credentials_directory("model", request.model.credentials, settings.credentials)
    model = await fetch(request.model.uri, work / "input", settings, request.model.sha256)
    data: dict[str, Fetched] = {}
    for part, source in _sources(request.optimize).items():
        own = replace(
            settings, credentials=credentials_directory(part, source.credentials, settings.credentials)
        )
        data[part] = await fetch(source.uri, work / part, own, source.sha256)
    return Inputs(model, data)


def worker() -> int:
    """Which of the pods of an Indexed Job this is; 0, the leader, where the Job has one pod.

    Raises:
        Problem: InvalidRequest.
    """
    text = os.environ.get(INDEX_VARIABLE, "0")
    if not text.isascii() or not text.isdigit():
        raise Problem(
            Reason.INVALID_REQUEST,
            f"{INDEX_VARIABLE} must be a number, not {text[:20]!r}: leave it to Kubernetes",
        )
    return int(text)


def run(request: JobRequest, work: Path, settings: FetchSettings) -> JobReport | None:
    """Do the whole Job; gives its report, None where this pod only helps another that reports.

    Raises:
        Problem: any reason.
    """
    from importlib.metadata import version

    from longshore_optimizer.ledger import Ledger, StorePlace
    from longshore_optimizer.measure.cpu import usable_cores
    from longshore_optimizer.parallel import Share, note_key
    from longshore_optimizer.pipeline import assist, optimize
    from longshore_optimizer.progress import Reporter
    from longshore_optimizer.request import Request, artifact_key, settings_of
    from longshore_optimizer.store.open import open_store

    if request.server_image and not request.store.startswith("oci://"):
        raise Problem(
            Reason.UNSUPPORTED_URI,
            f"an image of server and model needs a registry, and the store is {request.store}: set "
            "serving.packaging to Volume, or have the operator store artifacts at oci://",
        )

    if request.store_plain_http:
        host = request.store.removeprefix("oci://").split("/", 1)[0]
        settings = replace(settings, plain_http_hosts=settings.plain_http_hosts | {host})
    _prepare_work(work)
    tell(Progress(stage="Fetch", message=f"fetching {request.model.uri}"))
    inputs = asyncio.run(fetch_inputs(request, work, settings))
    digests = {name: fetched.sha256 for name, fetched in inputs.data.items()}

    def key_for(optimize: Optimize | None, target: Target) -> str:
        release = version("longshore-optimizer")
        return artifact_key(inputs.model.sha256, digests, optimize, target, release, request.model.factory)

    wanted = request.optimize
    key = key_for(wanted, request.target)
    # Another GPU or driver wants another engine, and TensorBoard its events; what was measured of the
    # candidates holds all the same.
    measured = key_for(
        wanted.model_copy(update={"tensor_board": False}) if wanted is not None else None,
        request.target.model_copy(update={"gpu": None}),
    )
    own = replace(settings, credentials=_store_credentials(settings))
    store = open_store(request.store, own, work, plain_http=request.store_plain_http)
    found = asyncio.run(store.find(key))
    if found is not None:
        tell(
            Progress(
                stage="Store", message="the store holds this artifact already", best=found.manifest.chosen
            )
        )
        image = None
        if request.server_image:
            held = asyncio.run(fetch(found.reference, work / "stored", own, found.sha256))
            image = _put_image(request, held.path, key, own, work)
        return report_message.succeeded(found.manifest, found, cached=True, image=image)
    out = work / "artifact"
    index, count = worker(), request.optimize.parallelism if request.optimize else 1
    place = StorePlace(store, measured if index == 0 else note_key(measured, index, "ledger"))
    order = Request(
        model=inputs.model.path,
        input_sha256=inputs.model.sha256,
        uri=request.model.uri,
        work=work,
        out=out,
        cores=usable_cores(request.target.cpu_millicores / 1000),
        format=request.model.format,
        allow_pickle=request.model.allow_pickle,
        factory=request.model.factory,
        calibration=_path(inputs, "calibration"),
        evaluation=_path(inputs, "evaluation"),
        training=_path(inputs, "training"),
        teacher=_path(inputs, "teacher"),
        student=_path(inputs, "student"),
        metric_function=_path(inputs, _METRIC),
        samples=request.samples,
        events=work / EVENTS_NAME if wanted is not None and wanted.tensor_board else None,
        key=key,
        ledger=Ledger(place, measured),
        share=Share(index, count, lambda i: StorePlace(store, note_key(key, i))) if count > 1 else None,
        **(settings_of(request.optimize) | _with_engine(request)),  # type: ignore[arg-type]
    )
    reporter = Reporter(on_progress=tell)
    if index > 0:
        if order.share is not None:
            assist(order, reporter)
        return None
    manifest = optimize(order, reporter)
    tell(Progress(stage="Store", message=f"storing at {request.store}", best=manifest.chosen))
    stored: Stored = asyncio.run(store.put(out, key))
    image = _put_image(request, out, key, own, work)
    return report_message.succeeded(manifest, stored, cached=False, image=image)


def _with_engine(request: JobRequest) -> dict[str, object]:
    """Give the exports where a TensorRT engine is wanted: it is one, whether the spec names it or not."""
    if request.target.gpu is None:
        return {}
    named = request.optimize.exports if request.optimize else ()
    return {"exports": tuple(dict.fromkeys((*named, Export.TENSORRT)))}


def _put_image(
    request: JobRequest, directory: Path, key: str, settings: FetchSettings, work: Path
) -> str | None:
    """Push the image of server and model where one is asked for; gives its reference."""
    from longshore_optimizer.fetch import credentials
    from longshore_optimizer.fetch.registry import parse_reference
    from longshore_optimizer.fetch.uri import parse
    from longshore_optimizer.store.base import image_tag_of
    from longshore_optimizer.store.serving_image import put_image

    if request.server_image is None:
        return None
    tell(Progress(stage="Store", message=f"putting the model onto {request.server_image}"))
    target = parse_reference(parse(request.store))
    login = credentials.load(settings.credentials)
    tag = image_tag_of(key, request.server_image)
    return asyncio.run(put_image(request.server_image, directory, target, tag, settings, login, work))


def _path(inputs: Inputs, part: str) -> Path | None:
    return inputs.data[part].path if part in inputs.data else None


def _store_credentials(settings: FetchSettings) -> Path | None:
    mounted = os.environ.get("LONGSHORE_STORE_CREDENTIALS")
    return Path(mounted) if mounted else settings.credentials


def _prepare_work(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
        for part in (
            "input",
            *_PARTS,
            _METRIC,
            *_MODELS,
            "artifact",
            EVENTS_NAME,
            "stored",
            "original",
            *(f"{name}-onnx" for name in _MODELS),
            "chosen",
            "scratch",
        ):
            shutil.rmtree(work / part, ignore_errors=True)
    except OSError as error:
        raise Problem(
            Reason.STORE_FAILED,
            f"the work directory {work} cannot be written: mount an emptyDir there ({error})",
        ) from error


def tell(progress: Progress) -> None:
    """Print a line of progress."""
    sys.stdout.write(progress.model_dump_json(by_alias=True, exclude_none=True) + "\n")
    sys.stdout.flush()


class _Terminated(BaseException):
    """The kubelet asks the process to end."""


def _on_term(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise _Terminated


def main() -> int:
    """Run the Job and report; gives the exit code."""
    signal.signal(signal.SIGTERM, _on_term)
    try:
        request = read_request()
        settings = from_environment()
        report = run(request, Path(os.environ.get("LONGSHORE_WORK", "/work")), settings)
    except Problem as problem:
        return _end(report_message.failed(problem), exit_code(problem.reason))
    except _Terminated:
        ended = Problem(
            Reason.DEADLINE_EXCEEDED,
            "the Job was ended from outside (deadline passed, node drained or deleted) before it was done: "
            "raise budget.time, or try again",
            retryable=True,
        )
        return _end(report_message.failed(ended), exit_code(ended.reason))
    except MemoryError:
        starved = Problem(
            Reason.OUT_OF_MEMORY, "no memory left: raise the memory limit in optimize.resources"
        )
        return _end(report_message.failed(starved), exit_code(starved.reason))
    except Exception as error:  # noqa: BLE001 - whatever happens must be reported
        traceback.print_exc()
        cause = f"{type(error).__name__}: {error}"
        unknown = Problem(Reason.INTERNAL_ERROR, f"the optimizer failed unexpectedly ({cause}): see its log")
        return _end(report_message.failed(unknown), EXIT_FAILED)
    return _end(report, EXIT_OK)


def _end(report: JobReport | None, code: int) -> int:
    """Report, and give the exit code; a helper reports nothing and never fails: the leader does its part."""
    if report is None or os.environ.get(INDEX_VARIABLE, "0") != "0":
        if report is not None and report.outcome is Outcome.FAILED:
            sys.stderr.write(f"this worker helps no longer: {report.reason}: {report.message}\n")
        return EXIT_OK
    if report.outcome is Outcome.FAILED:
        sys.stderr.write(f"{report.reason}: {report.message}\n")
    report_message.write(report)
    return code
