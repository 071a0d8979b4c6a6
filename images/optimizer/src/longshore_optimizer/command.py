"""`longshore optimize`: from what a person typed to a request, and back to the terminal."""

import asyncio
import hashlib
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from longshore.api.base import quantity, seconds
from longshore.api.model import Format
from longshore.api.optimize import Export, Goal, Metric, OnMiss, TechniqueName
from longshore.artifact.manifest import Manifest
from rich.console import Console

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.settings import FetchSettings, from_environment
from longshore_optimizer.fetch.sink import file_sha256, tree_sha256
from longshore_optimizer.fetch.source import Fetched, fetch
from longshore_optimizer.ledger import FilePlace, Ledger
from longshore_optimizer.measure.cpu import usable_cores, versions
from longshore_optimizer.metrics import parse_metric
from longshore_optimizer.pipeline import optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.techniques.registry import parse_technique
from longshore_optimizer.terminal import LiveTable, table

Choice = TypeVar("Choice", bound=StrEnum)


@dataclass(frozen=True)
class Options:
    """What was typed."""

    model: str
    out: Path
    calibration: str | None
    evaluation: str | None
    training: str | None
    teacher: str | None
    student: str | None
    metric: str
    metric_function: str | None
    max_drop: float
    confidence: float
    goal: str
    techniques: tuple[str, ...]
    max_p95: str | None
    max_size: str | None
    trials: int
    time: str
    cpus: float | None
    seed: int
    sha256: str | None
    format: str | None
    allow_pickle: bool
    factory: str | None
    allow_http: bool
    on_miss: str
    exports: tuple[str, ...]
    tensorboard: Path | None
    json: bool


def run(options: Options) -> Manifest:
    """Fetch what is remote, optimize, and show the result.

    Raises:
        Problem: any reason.
    """
    console = Console(stderr=True)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longshore-optimize-")))
        settings = replace(from_environment(), allow_file=True)
        settings = replace(settings, allow_http=settings.allow_http or options.allow_http)
        request = to_request(options, work, settings)
        reporter = Reporter()
        if not options.json and console.is_terminal:
            reporter = stack.enter_context(LiveTable(console))
        trials = FilePlace(request.out.with_name(f".{request.out.name}.trials.json"))
        manifest = optimize(replace(request, ledger=Ledger(trials, _ledger_key(request))), reporter)
        trials.remove()
    if options.json:
        sys.stdout.write(manifest.model_dump_json(by_alias=True, indent=2) + "\n")
    else:
        out = Console()
        # A pipe tells no width; the table needs more than the 80 columns that are assumed then.
        _summary(manifest, options.out, out if out.is_terminal else Console(width=160))
    return manifest


def _ledger_key(request: Request) -> str:
    """Hash of what a candidate's result depends on; another one makes an interrupted run start anew."""
    data = (
        request.calibration,
        request.evaluation,
        request.training,
        request.teacher,
        request.student,
        request.metric_function,
    )
    content = [
        request.input_sha256,
        *(_digest(path) if path is not None else "" for path in data),
        request.metric.value,
        str(request.confidence),
        str(request.seed),
        str(request.cores.threads),
        *(f"{k} {v}" for k, v in sorted(versions().items())),
    ]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()


def _digest(path: Path) -> str:
    return file_sha256(path) if path.is_file() else tree_sha256(path)


def to_request(options: Options, work: Path, settings: FetchSettings) -> Request:
    """Check the options and bring every input to the local disk.

    Raises:
        Problem: InvalidRequest, UnknownMetric, UnknownTechnique or any reason of fetching.
    """
    metric = _metric(options)
    goal = _choice(Goal, options.goal, "--goal")
    on_miss = _choice(OnMiss, options.on_miss, "--on-miss")
    exports = tuple(_choice(Export, e, "--export") for e in options.exports)
    file_format = _choice(Format, options.format, "--format") if options.format else None
    techniques = tuple(parse_technique(t) for t in options.techniques) or (TechniqueName.AUTO,)
    try:
        budget = seconds(options.time)
        p95 = seconds(options.max_p95) * 1000 if options.max_p95 else None
        size = int(quantity(options.max_size)) if options.max_size else None
    except ValueError as error:
        raise Problem(Reason.INVALID_REQUEST, str(error)) from error
    fetched = _local(options.model, work / "model", settings, options.sha256, "the model")
    request = Request(
        model=fetched.path,
        input_sha256=fetched.sha256,
        uri=options.model if "://" in options.model else None,
        work=work,
        out=options.out.absolute(),
        cores=usable_cores(options.cpus),
        format=file_format,
        allow_pickle=options.allow_pickle,
        factory=options.factory,
        metric=metric,
        max_drop=options.max_drop,
        confidence=options.confidence,
        goal=goal,
        techniques=techniques,
        exports=exports,
        p95_limit_ms=p95,
        size_limit=size,
        trials=options.trials,
        seconds=budget,
        seed=options.seed,
        on_miss=on_miss,
        events=options.tensorboard.absolute() if options.tensorboard is not None else None,
    )
    return replace(
        request,
        calibration=_data(options.calibration, work / "calibration", settings, "the calibration data"),
        evaluation=_data(options.evaluation, work / "evaluation", settings, "the evaluation data"),
        training=_data(options.training, work / "training", settings, "the training data"),
        teacher=_data(options.teacher, work / "teacher", settings, "the teacher"),
        student=_data(options.student, work / "student", settings, "the student"),
        metric_function=_data(options.metric_function, work / "metric", settings, "the metric function"),
    )


def _metric(options: Options) -> Metric:
    if options.metric_function is not None:
        return Metric.CUSTOM
    metric = parse_metric(options.metric)
    if metric is Metric.CUSTOM:
        raise Problem(
            Reason.INVALID_REQUEST, "--metric custom needs the file that computes it: add --metric-function"
        )
    return metric


def _choice(kind: type[Choice], text: str, option: str) -> Choice:
    key = "".join(c for c in text.lower() if c.isalnum())
    for value in kind:
        if value.value.lower() == key:
            return value
    raise Problem(
        Reason.INVALID_REQUEST, f"{option} {text!r} is unknown: use one of {', '.join(v.value for v in kind)}"
    )


def _data(text: str | None, destination: Path, settings: FetchSettings, what: str) -> Path | None:
    return None if text is None else _local(text, destination, settings, None, what).path


def _local(text: str, destination: Path, settings: FetchSettings, sha256: str | None, what: str) -> Fetched:
    """Use a local path where it lies; fetch anything else."""
    if "://" in text:
        return asyncio.run(fetch(text, destination, settings, sha256))
    path = Path(text)
    if not path.exists():
        raise Problem(Reason.NOT_FOUND, f"{what} {text} does not exist: correct the path")
    digest = _digest(path)
    if sha256 is not None and digest != sha256:
        raise Problem(
            Reason.DIGEST_MISMATCH,
            f"{text} has sha256 {digest}, not {sha256}: correct --sha256 or find out who changed it",
        )
    return Fetched(path.absolute(), digest, 0)


def _summary(manifest: Manifest, out: Path, console: Console) -> None:
    console.print(table(list(manifest.candidates)))
    console.print(
        f"chosen: [bold]{manifest.chosen}[/bold]   {out / 'model.onnx'}   sha256 {manifest.output.sha256}"
    )
