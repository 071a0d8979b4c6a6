"""The whole story of one optimization: convert, verify, candidates, measure, choose, write."""

import errno
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from longshore.api.optimize import Goal, Metric, OnMiss, TechniqueName
from longshore.artifact.manifest import MODEL_NAME, ORIGINAL, Manifest, Verdict

from longshore_optimizer import cascade, modeldir
from longshore_optimizer.candidates import Bench, Subject
from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.convert.run import convert
from longshore_optimizer.custom_metric import MetricRaisedError
from longshore_optimizer.data import Dataset, read
from longshore_optimizer.decide import Decision, Rules, Trial, decide, is_better, missed_limit, refuse
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.events import recorded
from longshore_optimizer.fetch import content
from longshore_optimizer.fetch.protobuf import Outline
from longshore_optimizer.fetch.sink import disk_problem, file_sha256
from longshore_optimizer.measure import cpu
from longshore_optimizer.measure.process import WorkerError
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.parallel import HELPERS_SHARE, Publisher
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.result import Result, make_exports, write
from longshore_optimizer.statistics import smallest_sample
from longshore_optimizer.techniques.adapt import needs_adapting
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts
from longshore_optimizer.techniques.build import ADAPT, Built
from longshore_optimizer.techniques.registry import propose
from longshore_optimizer.trials import Left, Search
from longshore_optimizer.verify import Runnable, check_runnable


@dataclass(frozen=True)
class Prepared:
    """The model as ONNX, known to run, with what its conversion showed."""

    path: Path
    runnable: Runnable
    format: str
    conversion: Converted | None


def optimize(request: Request, reporter: Reporter) -> Manifest:
    """Run everything and write the artifact to `request.out`; gives its manifest.

    Raises:
        Problem: any reason; nothing is left in `request.out` then.
    """
    left = _countdown(request.seconds)
    try:
        with Workers(request.cores) as workers:
            return _optimized(request, reporter, left, workers)
    except WorkerError as error:
        raise worker_problem(error) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_problem(error, f"to the work directory {request.work}") from error
    except MemoryError as error:
        raise Problem(
            Reason.OUT_OF_MEMORY,
            "no memory left: raise the memory limit in optimize.resources, or give less data",
        ) from error


def _optimized(request: Request, reporter: Reporter, left: Left, workers: Workers) -> Manifest:
    with recorded(reporter, request.events) as recorder:
        request, prepared, subject = _opened(request, recorder, workers)
        if not request.optimize:
            decision, original = _served_as_is(prepared)
            result = Result(request, prepared.path, prepared.path, prepared.runnable, original, decision)
        else:
            result = _search(request, subject, recorder, left, workers)
            recorder.trial(result.original)
    result = replace(
        result,
        format=prepared.format,
        conversion=prepared.conversion,
        recorded=subject.evaluation or subject.calibration,
    )
    if request.exports:
        reporter.stage("Export", ", ".join(e.value for e in request.exports), best=result.decision.chosen)
        result = replace(result, exports=make_exports(result, workers))
    reporter.stage("Store", f"writing {request.out.name}")
    return write(result)


def assist(request: Request, reporter: Reporter) -> None:
    """Do a helper's part of a search that `request.share` divides; its table holds what it found.

    Raises:
        Problem: any reason; the leader does the rest of this part then.
    """
    if request.share is None:
        raise ValueError("a helper has a share of the search")
    left = _countdown(request.seconds * HELPERS_SHARE)
    try:
        with Publisher(request.share, request.key or "") as publisher, Workers(request.cores) as workers:
            request, _, subject = _opened(request, reporter, workers)
            with Bench(request, subject, left, workers) as bench:
                original = bench.original()
                _, proposals, _ = _offers(request, bench)
                search = Search(request, bench, reporter, left, _rules(request))
                search.assist(proposals, original, publisher)
    except WorkerError as error:
        raise worker_problem(error) from error


def _countdown(seconds: float) -> Left:
    started = time.monotonic()
    return lambda: seconds - (time.monotonic() - started)


def _opened(request: Request, reporter: Reporter, workers: Workers) -> tuple[Request, Prepared, Subject]:
    """Convert model, teacher and student, and read the data."""
    prepared = to_onnx(request, reporter, workers)
    if request.optimize:
        teacher = _other(request, "teacher", request.teacher, reporter, workers)
        student = _other(request, "student", request.student, reporter, workers)
        request = replace(request, teacher=teacher, student=student)
    calibration, evaluation = read_data(request, prepared.runnable)
    return request, prepared, Subject(prepared.path, prepared.runnable, calibration, evaluation)


def worker_problem(error: WorkerError) -> Problem:
    """Say what became of the original model in its worker process."""
    text = " ".join(str(error).split())[:400]
    if error.kind == "OutOfMemory":
        return Problem(
            Reason.OUT_OF_MEMORY,
            f"running the model ran out of memory ({text}): raise the limit in optimize.resources",
        )
    if error.kind == "Timeout":
        return Problem(
            Reason.DEADLINE_EXCEEDED, "running the model took too long: give the Job more CPU or less data"
        )
    if error.kind == "NotStarted":
        # Neither the model nor the data had a part in it.
        return Problem(
            Reason.INTERNAL_ERROR,
            f"no process could be started to run the model in ({text}): try again with more memory and more "
            "processes allowed; where that does not help, install longshore-optimizer again",
            retryable=True,
        )
    return Problem(
        Reason.INFERENCE_FAILED,
        f"the model fails on the data: {text}; check that the data is what the model takes",
    )


def _other(
    request: Request, role: str, model: Path | None, reporter: Reporter, workers: Workers
) -> Path | None:
    """Make a teacher or student an ONNX model that runs; code in it is never loaded: the opt-in is the
    model's.

    Raises:
        Problem: as `to_onnx`.
    """
    if model is None:
        return None
    own = replace(request, model=model, format=None, allow_pickle=False, factory=None)
    try:
        return to_onnx(own, reporter, workers, f"{role}-onnx").path
    except Problem as problem:
        raise Problem(problem.reason, f"the {role} cannot be used: {problem.message}") from problem


def to_onnx(request: Request, reporter: Reporter, workers: Workers, folder: str = ORIGINAL) -> Prepared:
    """Find the model, convert it where it is not ONNX, check it and load it once; `folder` takes it.

    Raises:
        Problem: any reason of identifying, converting and verifying.
    """
    reporter.stage("Verify", "checking the model")
    source = modeldir.identify(modeldir.locate(request.model), request.format)
    directory = request.work / folder
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    target = directory / MODEL_NAME
    conversion = None
    if source.container == content.ONNX:
        outline = modeldir.copy_onnx(source.path, directory)
        if needs_adapting(outline):
            outline = _adapted(target, workers)
    else:
        reporter.stage("Convert", f"converting {source.format.value} to ONNX")
        samples = _first_file(request.calibration or request.evaluation)
        conversion = convert(
            source, target, samples, allow_pickle=request.allow_pickle, factory=request.factory
        )
        outline = modeldir.check_onnx(target)
    runnable = check_runnable(target, outline, workers)
    return Prepared(target, runnable, source.format.value, conversion)


def _adapted(target: Path, workers: Workers) -> Outline:
    """Make the file at `target` one that can be served."""
    plain = target.with_name("plain.onnx")
    with workers.start() as worker:
        worker.ask(
            Built,
            600,
            operation="build",
            technique=ADAPT,
            model=str(target),
            out=str(plain),
            scratch=str(target.parent),
        )
    plain.replace(target)
    return modeldir.check_onnx(target)


def _first_file(path: Path | None) -> Path | None:
    if path is None or path.is_file():
        return path
    return next(iter(sorted(path.rglob("*.npz"))), None)


def read_data(request: Request, runnable: Runnable) -> tuple[Dataset | None, Dataset | None]:
    """Read calibration and evaluation data and check them against the model's inputs.

    Raises:
        Problem: InvalidData, EmptyData, DataShapeMismatch, DataTypeMismatch or LabelsMissing.
    """
    calibration = evaluation = None
    if request.calibration is not None:
        calibration = read(request.calibration, "calibration", runnable.inputs)
    if request.evaluation is not None:
        evaluation = read(request.evaluation, "evaluation", runnable.inputs)
        if evaluation.labels is None and request.metric not in (Metric.AGREEMENT, Metric.CUSTOM):
            raise Problem(
                Reason.LABELS_MISSING,
                f"the metric {request.metric.value} needs labels: add an array `labels` to the evaluation "
                "data, or use "
                "the metric Agreement",
            )
    return calibration, evaluation


def _served_as_is(prepared: Prepared) -> tuple[Decision, Trial]:
    size = modeldir.onnx_size(prepared.path)
    original = Trial(Bench.original_proposal(), size_bytes=size, verdict=Verdict.CHOSEN)
    return Decision(ORIGINAL, "no optimization was asked for", ()), original


def _rules(request: Request) -> Rules:
    return Rules(
        goal=request.goal,
        max_drop=request.max_drop if request.evaluation is not None else None,
        metric=request.metric.value if request.evaluation is not None else None,
        confidence=request.confidence,
        p95_limit=request.p95_limit_ms,
        size_limit=request.size_limit,
    )


def _offers(
    request: Request, bench: Bench
) -> tuple[ModelFacts, tuple[Proposal, ...], list[tuple[TechniqueName, str]]]:
    """Prepare the graph; gives what is known of it, what can be tried, and what cannot with the reason."""
    facts = bench.prepare()
    target = TargetFacts(
        cpu_flags=cpu.cpu_flags(),
        vnni=cpu.has_vnni(cpu.cpu_flags()),
        calibration=request.calibration is not None,
        training=request.training is not None,
        student=request.student is not None,
        goal=request.goal,
        p95_limit_ms=request.p95_limit_ms,
        size_limit=request.size_limit,
    )
    proposals, skipped = propose(request.techniques, facts, target)
    return facts, proposals, list(skipped)


def _search(request: Request, subject: Subject, reporter: Reporter, left: Left, workers: Workers) -> Result:
    reporter.stage("Candidates", "preparing the graph")
    rules = _rules(request)
    notes = [*request.notes, *_same_data_note(request)]
    with Bench(request, subject, left, workers) as bench:
        try:
            original = bench.original()
        except MetricRaisedError as error:
            if request.on_miss is OnMiss.FAIL:
                raise
            return _unjudged(request, subject, str(error))
        reporter.trial(original)
        facts, proposals, skipped = _offers(request, bench)
        trials = [_skipped_trial(name.value, reason) for name, reason in skipped]
        for trial in trials:
            reporter.trial(trial)
        search = Search(request, bench, reporter, left, rules)
        found = search.run(proposals, original)
        original, notes = found.original, [*notes, *found.notes]
        trials += _cascades(original, found.trials, search)
        decision = _confirmed(original, [*found.trials, *trials], search)
        chosen = bench.path(decision.chosen)
        if subject.evaluation is not None and request.metric is not Metric.AGREEMENT:
            notes += _sample_note(subject.evaluation.count, rules)
        for trial in decision.trials:
            reporter.trial(trial)
        if decision.miss is not None and request.on_miss is OnMiss.FAIL:
            raise Problem(Reason.NO_CANDIDATE, _miss_message(decision))
        reporter.stage("Choose", decision.original_reason, best=decision.chosen)
        final = _keep(chosen, request.work / "chosen")
    original = replace(
        original,
        verdict=Verdict.CHOSEN if decision.chosen == ORIGINAL else Verdict.KEPT,
        reason=decision.original_reason,
    )
    return Result(
        request, subject.path, final, subject.runnable, original, decision, facts=facts, notes=tuple(notes)
    )


def _unjudged(request: Request, subject: Subject, message: str) -> Result:
    """Leave the model as it is where nothing can be judged, and tell why in the report."""
    reason = "the metric function fails on the original's own outputs, so no candidate could be judged"
    original = Trial(
        Bench.original_proposal(),
        size_bytes=modeldir.onnx_size(subject.path),
        verdict=Verdict.CHOSEN,
        reason=reason,
    )
    decision = Decision(ORIGINAL, reason, ())
    notes = (*request.notes, message)
    return Result(request, subject.path, subject.path, subject.runnable, original, decision, notes=notes)


def _cascades(original: Trial, measured: list[Trial], search: Search) -> list[Trial]:
    """Try the fastest candidate as the first stage of a cascade."""
    request, reporter = search.request, search.reporter
    if not cascade.wanted(request.techniques):
        return []
    found = cascade.smalls(original, measured)
    reason = cascade.missing(
        request.metric,
        evaluation=request.evaluation is not None,
        calibration=request.calibration is not None,
        smalls=found,
    )
    if reason is not None:
        named = TechniqueName.CASCADE in request.techniques
        return [_skipped_trial(TechniqueName.CASCADE.value, reason)] if named else []
    small = search.built(found[0])
    if not small.alive:
        return []
    reporter.stage("Candidates", f"{cascade.NAME} of {small.proposal.name} and the original")
    trial = search.bench.cascade(small, original, search.rules)
    reporter.trial(trial)
    return [trial]


def _confirmed(original: Trial, trials: list[Trial], search: Search) -> Decision:
    """Decide, and time the winner a second time: luck in one set of processes is no gain."""
    rules = search.rules
    while True:
        decision = decide(original, trials, rules, ORIGINAL)
        if decision.chosen == ORIGINAL:
            return decision
        winner = next(t for t in trials if t.proposal.name == decision.chosen)
        built = search.built(winner)
        if built is not winner:
            # Built anew it may score otherwise, so it is decided anew.
            trials = [built if t is winner else t for t in trials]
            continue
        if rules.goal is Goal.SIZE or missed_limit(original, rules):
            return decision
        again = search.bench.confirm(decision.chosen, rules.goal)
        if is_better(again):
            return decision
        reason = (
            f"its gain did not show again: the second measurement gives a factor of {again.estimate:.2f} "
            "(95 % "
            f"interval {again.low:.2f} to {again.high:.2f})"
        )
        trials = [
            refuse(t, reason, Verdict.KEPT) if t.proposal.name == decision.chosen else t for t in trials
        ]


def _skipped_trial(name: str, reason: str) -> Trial:
    proposal = Proposal(name, TechniqueName(name))
    return Trial(proposal, verdict=Verdict.SKIPPED, reason=reason)


def _same_data_note(request: Request) -> list[str]:
    first, second = request.calibration, request.evaluation
    if first is None or second is None or not (first.is_file() and second.is_file()):
        return []
    if file_sha256(first) != file_sha256(second):
        return []
    return ["calibration and evaluation data are the same file: give held-out data, or the proof is too kind"]


def _sample_note(count: int, rules: Rules) -> list[str]:
    if rules.max_drop is None:
        return []
    needed = smallest_sample(rules.max_drop, rules.confidence)
    if count >= needed:
        return []
    return [
        f"{count} evaluation samples cannot prove a drop of at most {rules.max_drop:g} at "
        f"{rules.confidence:.0%} "
        f"confidence: even identical answers need {needed} samples"
    ]


def _miss_message(decision: Decision) -> str:
    refused = [t for t in decision.trials if t.drop is not None and t.verdict is Verdict.REFUSED]
    best = min(refused, key=lambda t: t.drop.upper if t.drop else float("inf"), default=None)
    detail = ""
    if best is not None and best.drop is not None:
        detail = f"; the closest, {best.proposal.name}: {best.reason}"
    return (
        f"{decision.miss}, and onMiss is Fail{detail}. Raise maxDrop or the limits, give more evaluation "
        "data, or use onMiss: ServeOriginal"
    )


def _keep(model: Path, directory: Path) -> Path:
    """Copy the winner out of the scratch directory that goes with the bench."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
    modeldir.copy_onnx(model, directory)
    if (model.parent / cascade.CASCADE_NAME).is_file():
        shutil.copytree(model.parent, directory, dirs_exist_ok=True)
    return directory / MODEL_NAME
