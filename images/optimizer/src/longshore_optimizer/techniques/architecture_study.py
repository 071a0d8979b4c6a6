"""Searches the architectures with optuna for three objectives at once; a file remembers every point."""

import hashlib
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from longshore_optimizer.data import batches, read
from longshore_optimizer.measure import threads
from longshore_optimizer.measure.in_process import latencies, open_as_served, threads_of
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import architecture_space, onnxfile, training
from longshore_optimizer.techniques.architecture_policy import PolicySampler, reward
from longshore_optimizer.techniques.architecture_space import Point, Space
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.lesson import Lesson
from longshore_optimizer.techniques.torch_graph import TorchGraph, answers

JUDGED = 4
"""One in four training samples is kept out of the short training and judges its result."""

MOST_TAUGHT = 4096
"""Training samples that the short training uses at most."""

_LEAST_GAIN = 0.95
_TIMED_SECONDS = 0.15

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A point with what was measured after short training: the drop in accuracy (without classes the squared
    error of the answers relative to their variance), p95 in ms and the bytes of the weights."""

    point: Point
    drop: float
    p95_ms: float
    size: int


class Examiner:
    """Builds a point, trains it for a short time and measures the three objectives."""

    def __init__(
        self, space: Space, model: Path, data: Path, samples: training.Samples, lesson: Lesson
    ) -> None:
        """Put a part of the samples aside; `data` is what is timed on and observed for ranks."""
        self._space, self._data, self._lesson = space, data, lesson
        order = np.random.default_rng(lesson.seed).permutation(samples.count)
        held = max(1, samples.count // JUDGED)
        self._judged = samples.rows(order[:held])
        self._taught = samples.rows(order[held : held + MOST_TAUGHT])
        self._original = onnxfile.load(model)
        self._expected = self._answers(self._original)
        session = open_session(model, lesson.threads)
        inputs = tensor_specs(session.get_inputs())
        self._feeds = [b.feeds for b in batches(read(data, "calibration", inputs).head(8), inputs)]
        original = open_as_served(model, lesson.threads, self._feeds, threads.rule())
        self._rule = threads.rule(threads_of(original))

    def examine(self, point: Point, scratch: Path) -> tuple[float, float, float]:
        """Give drop, p95 in ms and bytes; raises what building, training or running raises."""
        built = architecture_space.build(self._space, point, self._data, scratch, self._lesson.threads)
        trained = built
        if not self._space.shares:
            trained = training.train(built, self._original, self._taught, self._lesson)
        return (
            self._drop(trained),
            self._p95(trained, scratch / "point.onnx"),
            architecture_space.size(trained),
        )

    def _answers(self, model: onnx.ModelProto) -> torch.Tensor:
        target = answers(model.graph)
        with torch.no_grad():
            (values,) = TorchGraph(model, target)(dict(self._judged.feeds), [target])
        return values

    def _drop(self, model: onnx.ModelProto) -> float:
        given, classes = self._answers(model), self._judged.classes
        if classes is None or given.dim() != 2:
            error = (given - self._expected).pow(2).mean()
            return float(error / self._expected.var(unbiased=False).clamp_min(1e-8))
        right = [(values.argmax(1) == classes).float().mean() for values in (self._expected, given)]
        return float(right[0] - right[1])

    def _p95(self, model: onnx.ModelProto, path: Path) -> float:
        onnxfile.save(model, path)
        session = open_as_served(path, self._lesson.threads, self._feeds, self._rule)
        path.unlink()
        return statistics.quantiles(latencies(session, self._feeds, _TIMED_SECONDS), n=20)[-1]


def search(
    space: Space,
    examiner: Examiner,
    file: Path,
    key: str,
    trials: int,
    seconds: float,
    sampler: Callable[[optuna.Study], optuna.samplers.BaseSampler],
) -> tuple[list[Found], Found]:
    """Examine points until there are `trials`, or the time is over; gives the Pareto front and the original.

    What `file` holds of a search with the same `key` counts, so that one that was killed goes on.
    """
    started = time.monotonic()
    study = _open(file, key)
    study.sampler = sampler(study)
    options: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(choices) for name, choices in space.choices.items()
    }
    over = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    waiting = [p for p in space.starts() if all(t.params != p for t in over)]
    done = len(over)
    while waiting[:1] == [space.original] or (done < trials and time.monotonic() - started < seconds):
        if waiting:
            point = waiting.pop(0)
            values = _examined(examiner, point, file.parent)
            state = TrialState.FAIL if values is None else TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(state=state, values=values, params=point, distributions=options)
            )
        else:
            trial = study.ask(options)
            values = _examined(examiner, trial.params, file.parent)
            study.tell(trial, values, state=TrialState.FAIL if values is None else None)
        done += 1
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    original = next((t for t in whole if t.params == space.original), None)
    if original is None:
        raise NotApplicableError("the original itself cannot be trained or timed here")
    return [_found(t) for t in study.best_trials], _found(original)


def _examined(examiner: Examiner, point: Point, scratch: Path) -> tuple[float, float, float] | None:
    try:
        return examiner.examine(point, scratch)
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        logger.warning("a point cannot be built or run: %s", error)
        return None


def evolutionary(seed: int) -> Callable[[optuna.Study], optuna.samplers.BaseSampler]:
    """NSGA-II (Deb et al. 2002)."""
    # The same seed again would ask for the same points again.
    return lambda study: optuna.samplers.NSGAIISampler(population_size=8, seed=seed + len(study.trials))


def reinforced(
    space: Space, seed: int, allowed: float, *, smallest: bool
) -> Callable[[optuna.Study], optuna.samplers.BaseSampler]:
    """A policy that is rewarded for what points save."""

    def made(study: optuna.Study) -> optuna.samplers.BaseSampler:
        def worth(values: Sequence[float]) -> float:
            whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            original = next((t.values for t in whole if t.params == space.original), values)
            return reward(original, allowed, smallest=smallest)(values)

        return PolicySampler(worth, seed + len(study.trials))

    return made


def _open(file: Path, key: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _drop_half_line(file)
    storage = JournalStorage(JournalFileBackend(str(file)))
    return optuna.create_study(
        storage=storage, study_name=key, directions=["minimize"] * 3, load_if_exists=True
    )


def _drop_half_line(file: Path) -> None:
    """Take away what a kill left of the last record: the next one would be appended to it."""
    if file.is_file():
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with file.open("rb+") as stream:
                stream.truncate(whole)


def _found(trial: FrozenTrial) -> Found:
    drop, p95, size = trial.values
    return Found(dict(trial.params), drop, p95, int(size))


def choose(front: list[Found], original: Found, allowed: float, *, smallest: bool) -> Found | None:
    """Give the fastest (or smallest) point whose drop is allowed; None where none beats the original."""
    gains = [
        f
        for f in front
        if f.drop <= allowed
        and (f.size < _LEAST_GAIN * original.size if smallest else f.p95_ms < _LEAST_GAIN * original.p95_ms)
    ]
    return min(gains, key=lambda f: f.size if smallest else f.p95_ms, default=None)


def key_of(*parts: Path | str) -> str:
    """Hash of files and settings that a study belongs to."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else _content(part)
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    files = [path] if path.is_file() else sorted(path.rglob("*.npz"))
    return b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)
