"""The whole story of one optimization: convert, verify, candidates, measure, choose, write."""

import errno
import shutil
import time
from collections.abc import Callable, Iterator
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
from longshore_optimizer.decide import Decision, Rules, Trial, decide, gate, is_better, missed_limit, refuse
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import content
from longshore_optimizer.fetch.protobuf import Outline
from longshore_optimizer.fetch.sink import disk_problem, file_sha256
from longshore_optimizer.ledger import known_of
from longshore_optimizer.measure import cpu
from longshore_optimizer.measure.process import WorkerError, WorkerProcess
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.result import Result, make_exports, write
from longshore_optimizer.statistics import smallest_sample
from longshore_optimizer.techniques.base import Proposal, TargetFacts
from longshore_optimizer.techniques.build import Built
from longshore_optimizer.techniques.registry import propose
from longshore_optimizer.verify import Runnable, check_runnable

Left = Callable[[], float]
"""Tells the seconds that are left of the budget."""

_RESERVE = 0.3
"""Share of the time budget kept for the final, interleaved measurement."""


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
    started = time.monotonic()

    def left() -> float:
        return request.seconds - (time.monotonic() - started)

    try:
        prepared = to_onnx(request, reporter)
        if request.teacher is not None and request.optimize:
            request = replace(request, teacher=_teacher(request, reporter))
        calibration, evaluation = read_data(request, prepared.runnable)
        subject = Subject(prepared.path, prepared.runnable, calibration, evaluation)
        if not request.optimize:
            decision, original = _served_as_is(prepared)
            result = Result(request, prepared.path, prepared.path, prepared.runnable, original, decision)
        else:
            result = _search(request, subject, reporter, left)
        result = replace(
            result,
            format=prepared.format,
            conversion=prepared.conversion,
            recorded=evaluation or calibration,
        )
        if request.exports:
            reporter.stage("Export", ", ".join(e.value for e in request.exports), best=result.decision.chosen)
            result = replace(result, exports=make_exports(result))
        reporter.stage("Store", f"writing {request.out.name}")
        return write(result)
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
    return Problem(
        Reason.INFERENCE_FAILED,
        f"the model fails on the data: {text}; check that the data is what the model takes",
    )


def _teacher(request: Request, reporter: Reporter) -> Path:
    """Make the teacher an ONNX model that runs; code in it is never loaded, as the opt-in is the model's.

    Raises:
        Problem: as `to_onnx`.
    """
    assert request.teacher is not None
    own = replace(request, model=request.teacher, format=None, allow_pickle=False, factory=None)
    try:
        return to_onnx(own, reporter, "teaching").path
    except Problem as problem:
        raise Problem(problem.reason, f"the teacher cannot be used: {problem.message}") from problem


def to_onnx(request: Request, reporter: Reporter, folder: str = ORIGINAL) -> Prepared:
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
        if ("ai.onnx.ml", "ZipMap") in outline.operators:
            outline = _without_zip_map(target, request)
    else:
        reporter.stage("Convert", f"converting {source.format.value} to ONNX")
        samples = _first_file(request.calibration or request.evaluation)
        conversion = convert(
            source, target, samples, allow_pickle=request.allow_pickle, factory=request.factory
        )
        outline = modeldir.check_onnx(target)
    runnable = check_runnable(target, outline, request.cores)
    return Prepared(target, runnable, source.format.value, conversion)


def _without_zip_map(target: Path, request: Request) -> Outline:
    """Replace maps in the outputs, which no inference protocol carries, by the tensors they were made
    from."""
    plain = target.with_name("plain.onnx")
    with WorkerProcess(request.cores) as worker:
        worker.ask(
            Built,
            600,
            operation="build",
            technique="RemoveZipMap",
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
    return Decision(ORIGINAL, "no optimization was asked for", (), False), original


def _search(request: Request, subject: Subject, reporter: Reporter, left: Left) -> Result:
    reporter.stage("Candidates", "preparing the graph")
    rules = Rules(
        goal=request.goal,
        max_drop=request.max_drop if request.evaluation is not None else None,
        metric=request.metric.value if request.evaluation is not None else None,
        confidence=request.confidence,
        p95_limit=request.p95_limit_ms,
        size_limit=request.size_limit,
    )
    notes = [*request.notes, *_same_data_note(request)]
    with Bench(request, subject, left) as bench:
        try:
            original = bench.original()
        except MetricRaisedError as error:
            if request.on_miss is OnMiss.FAIL:
                raise
            return _unjudged(request, subject, str(error))
        reporter.trial(original)
        facts = bench.prepare()
        target = TargetFacts(
            cpu_flags=cpu.cpu_flags(),
            vnni=cpu.has_vnni(cpu.cpu_flags()),
            calibration=request.calibration is not None,
            training=request.training is not None,
            goal=request.goal,
            p95_limit_ms=request.p95_limit_ms,
        )
        proposals, skipped = propose(request.techniques, facts, target)
        trials = [_skipped_trial(name.value, reason) for name, reason in skipped]
        for trial in trials:
            reporter.trial(trial)
        tried = _try_all(proposals, request, bench, reporter, left, rules)
        measured = _measure(original, tried, bench, reporter)
        original = measured[0]
        trials += _cascades(original, measured[1:], request, bench, reporter, rules)
        decision = _confirmed(original, [*measured[1:], *trials], rules, bench)
        chosen = bench.path(decision.chosen)
        if subject.evaluation is not None and request.metric is not Metric.AGREEMENT:
            notes += _sample_note(subject.evaluation.count, rules)
        for trial in decision.trials:
            reporter.trial(trial)
        if decision.chosen == ORIGINAL and request.on_miss is OnMiss.FAIL and not decision.any_within_drop:
            raise Problem(Reason.NO_CANDIDATE, _miss_message(decision, rules))
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
    decision = Decision(ORIGINAL, reason, (), any_within_drop=False)
    notes = (*request.notes, message)
    return Result(request, subject.path, subject.path, subject.runnable, original, decision, notes=notes)


def _try_all(
    proposals: tuple[Proposal, ...],
    request: Request,
    bench: Bench,
    reporter: Reporter,
    left: Left,
    rules: Rules,
) -> list[Trial]:
    reserve = request.seconds * _RESERVE
    tried: list[Trial] = []
    total = min(len(proposals), request.trials)
    for number, proposal in enumerate(planned(proposals, tried, rules)):
        if number >= request.trials:
            tried.append(
                refuse(Trial(proposal), f"budget.trials ({request.trials}) is used up", Verdict.SKIPPED)
            )
            continue
        if left() < reserve:
            tried.append(refuse(Trial(proposal), "budget.time is used up", Verdict.SKIPPED))
            continue
        reporter.stage("Candidates", proposal.name, done=number, total=total)
        trial = _tried(proposal, request, bench, rules)
        tried.append(trial)
        reporter.trial(trial)
    return tried


def _tried(proposal: Proposal, request: Request, bench: Bench, rules: Rules) -> Trial:
    """Build and score a candidate, or take what a run before this one found out."""
    ledger = request.ledger
    known = ledger.find(proposal) if ledger is not None else None
    if known is not None and known.verdict is not None:
        return known.trial(proposal)
    trial = bench.attempt(proposal, rules, known)
    if ledger is not None:
        ledger.note(known_of(trial, modeldir.onnx_sha256(bench.path(proposal.name)) if trial.alive else None))
    return trial


def planned(proposals: tuple[Proposal, ...], tried: list[Trial], rules: Rules) -> Iterator[Proposal]:
    """Give the proposals in an order in which a budget that ends early has seen the most promising.

    The first of each technique; what the same technique mends of those that failed the gate (it costs no
    training and keeps most of the gain); the others; what else mends; and last what only saves bytes, unless
    bytes are the goal.
    """
    plain = [p for p in proposals if p.after is None]
    late = [p for p in plain if p.size_only and rules.goal is not Goal.SIZE]
    leading = list({p.technique: p for p in reversed(plain) if p not in late}.values())
    first = [p for p in plain if p in leading]
    yield from first
    makers = {p.name: p.technique for p in plain}
    own = [p for p in proposals if p.after is not None and makers.get(p.after) is p.technique]
    yield from _mending(own, tried, rules)
    yield from (p for p in plain if p not in first and p not in late)
    others = [p for p in proposals if p.after is not None and p not in own]
    yield from _mending(others, tried, rules)
    yield from late


def _mending(proposals: list[Proposal], tried: list[Trial], rules: Rules) -> Iterator[Proposal]:
    """Give what mends a candidate that failed the gate, until one of its technique has mended it."""
    for proposal in proposals:
        broken = next((t for t in tried if t.proposal.name == proposal.after), None)
        if rules.max_drop is None or broken is None or not broken.alive or gate(broken, rules).alive:
            continue
        before = [
            t
            for t in tried
            if t.proposal.after == proposal.after and t.proposal.technique is proposal.technique
        ]
        if not any(t.alive and gate(t, rules).alive for t in before):
            yield proposal


def _measure(original: Trial, tried: list[Trial], bench: Bench, reporter: Reporter) -> list[Trial]:
    def progress(done: int, total: int) -> None:
        reporter.stage("Measure", "timing in interleaved rounds", done=done, total=total)

    reporter.stage("Measure", "timing in interleaved rounds")
    measured = bench.measure([original, *tried], progress)
    for trial in measured:
        reporter.trial(trial)
    return measured


def _cascades(
    original: Trial, measured: list[Trial], request: Request, bench: Bench, reporter: Reporter, rules: Rules
) -> list[Trial]:
    """Try the fastest candidate as the first stage of a cascade."""
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
    reporter.stage("Candidates", f"{cascade.NAME} of {found[0].proposal.name} and the original")
    trial = bench.cascade(found[0], original, rules)
    reporter.trial(trial)
    return [trial]


def _confirmed(original: Trial, trials: list[Trial], rules: Rules, bench: Bench) -> Decision:
    """Decide, and time the winner a second time: luck in one set of processes is no gain."""
    while True:
        decision = decide(original, trials, rules, ORIGINAL)
        if decision.chosen == ORIGINAL or rules.goal is Goal.SIZE or missed_limit(original, rules):
            return decision
        again = bench.confirm(decision.chosen, rules.goal)
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


def _miss_message(decision: Decision, rules: Rules) -> str:
    refused = [t for t in decision.trials if t.drop is not None and t.verdict is Verdict.REFUSED]
    best = min(refused, key=lambda t: t.drop.upper if t.drop else float("inf"), default=None)
    detail = ""
    if best is not None and best.drop is not None:
        detail = f"; the closest, {best.proposal.name}: {best.reason}"
    bound = f"maxDrop {rules.max_drop:g}" if rules.max_drop is not None else "the limits"
    return (
        f"no candidate is within {bound} and onMiss is Fail{detail}. Raise maxDrop, give more evaluation "
        "data, or use "
        "onMiss: ServeOriginal"
    )


def _keep(model: Path, directory: Path) -> Path:
    """Copy the winner out of the scratch directory that goes with the bench."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
    modeldir.copy_onnx(model, directory)
    if (model.parent / cascade.CASCADE_NAME).is_file():
        shutil.copytree(model.parent, directory, dirs_exist_ok=True)
    return directory / MODEL_NAME
