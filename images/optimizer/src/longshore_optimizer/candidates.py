"""The bench on which candidates are built, smoke-tested, scored on the evaluation data and timed."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from longshore.api.optimize import Goal, TechniqueName
from longshore.artifact.manifest import MODEL_NAME, ORIGINAL, Verdict

from longshore_optimizer import cascade, modeldir
from longshore_optimizer.answers import LOSSLESS_TOLERANCE, check_shapes, lossless_difference
from longshore_optimizer.custom_metric import CustomEvaluator
from longshore_optimizer.data import Dataset
from longshore_optimizer.decide import Latency, Rules, Trial, missed_limit, refuse
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import protobuf
from longshore_optimizer.ledger import Known
from longshore_optimizer.measure import outputs as outputs_file
from longshore_optimizer.measure.latency import rescale, seconds_for
from longshore_optimizer.measure.process import WorkerError, WorkerProcess
from longshore_optimizer.measure.protocol import Loaded, MadeUp, Predicted, Timed
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.metrics import Evaluated, Evaluator, Judge, Outputs
from longshore_optimizer.request import Request
from longshore_optimizer.statistics import Drop, Ratio
from longshore_optimizer.stopwatch import Stopwatch
from longshore_optimizer.techniques.architecture_search import STUDY_NAME
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NotApplicableError,
    NothingBetterError,
    Proposal,
)
from longshore_optimizer.techniques.build import Built
from longshore_optimizer.verify import Runnable

_SMOKE_SAMPLES = 4
_BUILD_TIMEOUT = 1200.0
_RUN_TIMEOUT = 3600.0
_LEAST_TIMEOUT = 60.0
_LEAST_TRAINING = 10.0
_SINGLE_SECONDS = 15.0
_BATCH = 8
_HOPELESS = 4.0
_TOO_SLOW = 2.5
"""How many times the original's latency is refused without a look at the answers; the second where the goal
is latency and no limit on size could make up for it. Generous, as both were short runs with all threads."""

_MADE_UP = "made-up.npz"
_MAKING_UP = 60.0
"""Seconds for finding sizes with which the model runs."""


@dataclass(frozen=True)
class Subject:
    """The original model with its data."""

    path: Path
    runnable: Runnable
    calibration: Dataset | None
    evaluation: Dataset | None


class Bench:
    """Builds and judges candidates against one original; a context manager that ends its builder process."""

    def __init__(
        self, request: Request, subject: Subject, left: Callable[[], float], workers: Workers
    ) -> None:
        """Take what is asked for and where processes come from; nothing runs yet."""
        self._workers = workers
        self._request = request
        self._subject = subject
        self._left = left
        self._scratch = request.work / "scratch"
        self._prepared = subject.path
        self._flushed = 0
        self._builder: WorkerProcess | None = None
        given = request.evaluation or request.calibration
        self._made_up = given is None
        self._data = given or self._scratch / _MADE_UP
        self._batch = 1
        self._reference: Outputs = {}
        self._evaluator: Judge | None = None
        self._evaluated: Evaluated | None = None
        self._original_p50 = 0.0
        self._measurable = True

    def __enter__(self) -> Self:
        """Make the scratch directory; of a killed run it keeps the points that a search has examined."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        for left in self._scratch.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            elif left.name != STUDY_NAME:
                left.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the builder and remove what was built."""
        if self._builder is not None:
            self._builder.end()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @staticmethod
    def original_proposal() -> Proposal:
        """How the original stands in the table."""
        return Proposal(ORIGINAL, TechniqueName.GRAPH, {}, lossless=True)

    def path(self, name: str) -> Path:
        """Where a candidate's model lies."""
        return self._subject.path if name == ORIGINAL else self._scratch / name / MODEL_NAME

    def original(self) -> Trial:
        """Run the original on the data: the reference for all candidates.

        Raises:
            Problem: NanOutput, InferenceFailed, MetricFailed, LabelsMissing, OutOfMemory.
        """
        size = modeldir.onnx_size(self._subject.path)
        trial = Trial(self.original_proposal(), size_bytes=size)
        with self._workers.start() as worker:
            self._load(worker, self._subject.path)
            if self._made_up and not self._make_up(worker):
                self._measurable = False
                return trial
            self._original_p50 = self._timed(worker).p50
            samples = self._subject.evaluation.count if self._subject.evaluation is not None else 0
            if samples * self._original_p50 / 1000 > _SINGLE_SECONDS:
                self._batch = _BATCH
            predicted, values = self._predict(worker, ORIGINAL, self._data)
        if predicted.nan_outputs and not self._made_up:
            raise Problem(
                Reason.NAN_OUTPUT,
                f"the model's output {predicted.nan_outputs[0]!r} holds NaN on the data: repair the model, "
                "or the data "
                "that leads to it",
            )
        self._reference = values
        if self._subject.evaluation is None:
            return trial
        self._evaluator = self._judge_of(self._subject.evaluation, values)
        self._evaluated = self._evaluator.evaluate(values)
        if not np.isfinite(self._evaluated.value):
            raise Problem(
                Reason.METRIC_FAILED,
                f"the metric {self._request.metric.value} is not defined on the evaluation data: check the "
                "labels "
                "(are all classes there?)",
            )
        return replace(trial, metric=self._evaluated.value, drop=Drop(0.0, 0.0))

    def _judge_of(self, evaluation: Dataset, reference: Outputs) -> Judge:
        request = self._request
        if request.metric_function is not None:
            return CustomEvaluator(
                request.metric_function,
                evaluation.labels,
                request.confidence,
                request.seed,
                self._scratch,
                self._workers,
            )
        return Evaluator(request.metric, evaluation.labels, reference, request.confidence, request.seed)

    def prepare(self) -> ModelFacts:
        """Build the form that techniques start from; gives what is known of it."""
        target = self._scratch / "prepared" / MODEL_NAME
        try:
            flushed = self._build("Prepare", {}, self._subject.path, target).flushed
            with self._workers.start() as worker:
                self._load(worker, target)
                if self._measurable:
                    _, values = self._predict(worker, "prepared", self._data)
                    if lossless_difference(self._reference, values) <= LOSSLESS_TOLERANCE:
                        self._prepared = target
                else:
                    self._prepared = target
        except WorkerError:
            # The techniques then start from the original itself.
            self._prepared = self._subject.path
        else:
            self._flushed = flushed if self._prepared == target else 0
        return facts_of(self._prepared, self._subject.runnable)

    def attempt(
        self, proposal: Proposal, rules: Rules, known: Known | None = None, seconds: float | None = None
    ) -> Trial:
        """Build a candidate, run it on a few samples, then on all; what breaks is told, not raised.

        Where the model turns out to be the one that `known` was measured on, its scores are taken. `seconds`
        is what training may take.
        """
        trial = Trial(proposal)
        out = self._scratch / proposal.name / MODEL_NAME
        if not self._measurable:
            return refuse(
                trial,
                "the model cannot be run on made-up inputs: give calibration or evaluation data",
                Verdict.SKIPPED,
            )
        try:
            self._build(proposal.technique.value, proposal.parameters, self._prepared, out, seconds)
            size = modeldir.onnx_size(out)
            trial = replace(trial, size_bytes=size)
            if proposal.lossless and not self._flushed and _same_graph(out, self._subject.path):
                return refuse(trial, "the graph has nothing to remove", Verdict.SKIPPED)
            missed = missed_limit(trial, rules)
            if missed is not None:
                return refuse(trial, f"{missed}: its answers were not judged")
            if known is not None and known.model_sha256 == modeldir.onnx_sha256(out):
                return known.trial(proposal)
            with self._workers.start() as worker:
                self._load(worker, out)
                return self._judge(worker, trial)
        except WorkerError as error:
            if error.kind == NotApplicableError.__name__:
                return refuse(trial, str(error), Verdict.SKIPPED)
            if error.kind == NothingBetterError.__name__:
                # Its turn was had: nothing of the kind is tried in its place.
                return refuse(trial, str(error))
            return refuse(trial, _failure(error), Verdict.FAILED)
        except Problem as problem:
            return refuse(trial, problem.message, Verdict.FAILED)

    def _judge(self, worker: WorkerProcess, trial: Trial) -> Trial:
        name = trial.proposal.name
        predicted, values = self._predict(worker, name, self._data, limit=_SMOKE_SAMPLES)
        if predicted.nan_outputs and not self._made_up:
            return refuse(trial, f"its output {predicted.nan_outputs[0]!r} holds NaN", Verdict.FAILED)
        check_shapes({k: v[:_SMOKE_SAMPLES] for k, v in self._reference.items()}, values)
        latency = self._timed(worker)
        trial = replace(trial, rough_ms=latency.p50)
        if latency.p50 > self._most_ms(self._original_p50):
            # A busy machine rules nothing out: both once more, one right after the other.
            latency = min(latency, self._timed(worker), key=lambda measured: measured.p50)
            original = max(self._original_p50, self._rough_original())
            if latency.p50 > self._most_ms(original):
                return refuse(
                    replace(trial, latency=latency),
                    f"{latency.p50:.3g} ms is {latency.p50 / original:.1f} times the original's: its answers "
                    "were not judged",
                )
        predicted, values = self._predict(worker, name, self._data)
        if predicted.nan_outputs and not self._made_up:
            return refuse(trial, f"its output {predicted.nan_outputs[0]!r} holds NaN", Verdict.FAILED)
        if trial.proposal.lossless:
            difference = lossless_difference(self._reference, values)
            if difference > LOSSLESS_TOLERANCE:
                return refuse(
                    trial, f"its outputs differ from the original's by {difference:.2g} of their scale"
                )
        if self._evaluator is None or self._evaluated is None:
            return trial
        evaluated = self._evaluator.evaluate(values)
        drop = (
            Drop(self._evaluated.value - evaluated.value, 0.0)
            if trial.proposal.lossless
            else self._evaluator.drop(self._evaluated, evaluated)
        )
        return replace(trial, metric=evaluated.value, drop=drop)

    def _rough_original(self) -> float:
        """Median latency of the original at this moment, in milliseconds."""
        with self._workers.start() as worker:
            self._load(worker, self._subject.path)
            return self._timed(worker).p50

    def _timed(self, worker: WorkerProcess) -> Latency:
        """What one short run tells."""
        timed = worker.ask(Timed, self._timeout(), operation="time", seconds=0.1, data=str(self._data))
        p50, p95 = (float(np.percentile(timed.latencies_ms, share)) for share in (50, 95))
        return Latency((p50,), (timed.cpu_ms,), p50, p95)

    def _most_ms(self, original: float) -> float:
        """Latency over which a candidate cannot win, whatever it answers, by that of the original."""
        limit = self._request.p95_limit_ms
        if self._request.goal is Goal.SIZE and limit is not None:
            # Slower than the original is what such a limit allows.
            return max(limit, original)
        fast = self._request.goal is Goal.LATENCY and self._request.size_limit is None
        return (_TOO_SLOW if fast else _HOPELESS) * original

    def measuring(self, models: int) -> float:
        """Seconds that the final measurement of so many models, the original among them, takes at most."""
        return seconds_for(self._original_p50 / 1000, models) if self._measurable else 0.0

    def measure(
        self, trials: Sequence[Trial], progress: Callable[[int, int], None], rules: Rules
    ) -> list[Trial]:
        """Time the original, which stands first, and every candidate that is still in play, interleaved."""
        if not self._measurable:
            original = replace(trials[0], latency=_unmeasured())
            return [original, *trials[1:]]
        paths = {t.proposal.name: self.path(t.proposal.name) for t in trials}
        measured = self._stopwatch().compare(trials, paths, rules, progress)
        result = []
        for trial in trials:
            latency = measured.get(trial.proposal.name)
            if not trial.alive or latency is None:
                result.append(trial)
            elif isinstance(latency, WorkerError):
                result.append(refuse(trial, _failure(latency), Verdict.FAILED))
            else:
                result.append(replace(trial, latency=latency))
        return result

    def cascade(self, small: Trial, original: Trial, rules: Rules) -> Trial:
        """Build, score and time a cascade of a candidate and the original."""
        proposal = Proposal(f"{cascade.NAME}-{small.proposal.name}", TechniqueName.CASCADE)
        calibration, data = self._subject.calibration, self._request.calibration
        if calibration is None or data is None or rules.max_drop is None:
            return refuse(Trial(proposal), "it needs calibration and evaluation data", Verdict.SKIPPED)
        answers = []
        for name, path in ((small.proposal.name, self.path(small.proposal.name)), (ORIGINAL, self._prepared)):
            with self._workers.start() as worker:
                self._load(worker, path)
                answers.append(self._predict(worker, name, data)[1])
        found = cascade.calibrate(
            answers[0], answers[1], calibration.labels, rules.max_drop, rules.confidence
        )
        if found is None:
            reason = (
                f"no threshold keeps the loss on the calibration data within maxDrop {rules.max_drop:g} "
                "and a tenth of the rows from the original"
            )
            return refuse(Trial(proposal), reason, Verdict.SKIPPED)
        parts = {"small": str(self.path(small.proposal.name)), "large": str(self._prepared)}
        settings = {"output": found.output, "threshold": found.threshold, "softmax": found.softmax}
        trial = self.attempt(replace(proposal, parameters=parts | settings), rules)
        shown = replace(
            proposal, parameters=settings | {"small": small.proposal.name, "escalated": found.share}
        )
        trial = replace(trial, proposal=shown)
        if not trial.alive:
            return trial
        _keep_parts(self.path(proposal.name).parent, parts, settings)
        return self._timed_later(trial, original)

    def _timed_later(self, trial: Trial, original: Trial) -> Trial:
        """Time one more candidate; its latencies are put in relation to the original's first ones."""
        name = trial.proposal.name
        models = {ORIGINAL: self._subject.path, name: self.path(name)}
        measured = self._stopwatch().time(models, -1, least=5.0)
        base, latency = measured[ORIGINAL], measured[name]
        if isinstance(latency, WorkerError) or isinstance(base, WorkerError) or original.latency is None:
            failure = latency if isinstance(latency, WorkerError) else WorkerError("not timed", "Died")
            return refuse(trial, _failure(failure), Verdict.FAILED)
        return replace(trial, latency=rescale(latency, base, original.latency))

    def confirm(self, name: str, goal: Goal) -> Ratio:
        """Time a winner against the original once more, in new processes; gives its gain there."""
        models = {ORIGINAL: self._subject.path, name: self.path(name)}
        return self._stopwatch().confirm(models, name, goal)

    def _stopwatch(self) -> Stopwatch:
        return Stopwatch(self._data, self._workers, self._request.seed, self._left)

    def _build(
        self,
        technique: str,
        parameters: dict[str, Any],
        model: Path,
        out: Path,
        seconds: float | None = None,
    ) -> Built:
        if self._builder is None:
            self._builder = self._workers.start()
        limit = min(_BUILD_TIMEOUT, max(self._left(), 10.0))
        try:
            return self._builder.ask(
                Built,
                limit,
                operation="build",
                technique=technique,
                parameters=parameters,
                model=str(model),
                out=str(out),
                calibration=str(self._request.calibration) if self._request.calibration else None,
                scratch=str(self._scratch),
                seed=self._request.seed,
                threads=self._request.cores.threads,
                training=str(self._request.training) if self._request.training else None,
                epochs=self._request.epochs,
                teacher=str(self._request.teacher) if self._request.teacher else None,
                student=str(self._request.student) if self._request.student else None,
                seconds=min(0.8 * limit, max(seconds if seconds is not None else limit, _LEAST_TRAINING)),
            )
        except WorkerError as error:
            if error.kind in ("Died", "OutOfMemory", "Timeout"):
                self._builder.end()
                self._builder = None
            raise

    def _load(self, worker: WorkerProcess, path: Path) -> Loaded:
        return worker.ask(
            Loaded, _RUN_TIMEOUT, operation="load", model=str(path), threads=self._request.cores.threads
        )

    def _timeout(self) -> float:
        """Seconds that one run over the data may take: what is left of the budget, but enough to try."""
        return min(max(self._left(), _LEAST_TIMEOUT), _RUN_TIMEOUT)

    def _predict(
        self, worker: WorkerProcess, name: str, data: Path, limit: int | None = None
    ) -> tuple[Predicted, Outputs]:
        out = self._scratch / f"{name}.outputs.npz"
        predicted = worker.ask(
            Predicted,
            self._timeout(),
            operation="predict",
            out=str(out),
            batch=self._batch,
            limit=limit,
            data=str(data),
        )
        values = outputs_file.load(out)
        out.unlink()
        return predicted, values

    def _make_up(self, worker: WorkerProcess) -> bool:
        """Write inputs with which the model runs, where any can be made from its own shapes."""
        try:
            made = worker.ask(
                MadeUp,
                2 * _MAKING_UP,
                operation="make_up",
                out=str(self._data),
                seed=self._request.seed,
                seconds=min(_MAKING_UP, max(self._left(), 1.0)),
            )
        except WorkerError:
            return False
        return made.found


def _keep_parts(directory: Path, parts: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Lay the two models and `cascade.json` beside the joined graph, for a server that splits rows."""
    names = {}
    for role, path in parts.items():
        modeldir.copy_onnx(Path(path), directory / role)
        names[role] = f"{role}/{MODEL_NAME}"
    (directory / cascade.CASCADE_NAME).write_text(json.dumps(names | dict(settings)) + "\n")


def facts_of(path: Path, runnable: Runnable) -> ModelFacts:
    """Read what techniques decide on from a model file."""
    outline = protobuf.outline(path)
    return ModelFacts(
        opset=outline.opsets.get("", outline.opsets.get("ai.onnx", 0)),
        operators=dict(outline.counts),
        weight_bytes=outline.float_bytes,
        inputs=runnable.inputs,
        outputs=runnable.outputs,
    )


def _same_graph(candidate: Path, original: Path) -> bool:
    first, second = protobuf.outline(candidate), protobuf.outline(original)
    return first.counts == second.counts and first.opsets == second.opsets


def _failure(error: WorkerError) -> str:
    text = " ".join(str(error).split())[:300]
    return {
        "OutOfMemory": f"it ran out of memory: {text}",
        "Timeout": "it did not finish in time",
        "Died": f"it crashed: {text}",
    }.get(error.kind, f"it cannot be built or run: {text}")


def _unmeasured() -> Latency:
    return Latency((), (), 0.0, 0.0)
