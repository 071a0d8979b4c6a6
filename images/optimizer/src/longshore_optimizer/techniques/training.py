"""Trains the weights of an ONNX model against labels and against the answers of a teacher."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from longshore_optimizer.data import read
from longshore_optimizer.measure import cpu
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import normalization, views
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.foreign_teacher import ForeignTeacher
from longshore_optimizer.techniques.lesson import Lesson, loss_of, rate
from longshore_optimizer.techniques.replicas import Replicas
from longshore_optimizer.techniques.torch_graph import TorchGraph, answers
from longshore_optimizer.techniques.views import Feeds, Views

BATCH = 64
_RUN = 256
"""Samples that are run at once where nothing is learned."""

_HELD_OUT, _MOST_HELD_OUT = 10, 2000
"""One in ten training samples judges which weights are kept and which views are harmless; of so many, a point
is seen, and the others are worth more as what is taught."""

_HALF = 0.8
"""Share of a lesson that is multiplied in bfloat16 where the CPU has units for that (1.5 to 2 times faster).

What is left lets the weights settle in the precision in which they will answer.
"""

_LEAST_PART = 32
"""Samples of a batch that a copy of the network takes at least: fewer are not worth the meeting, and tell
normalization too little."""

_COMPARED = 512
_COUNTED = 1024
"""Samples that tell the statistics of channels: a hundredth of the time of a pass over many samples."""


@dataclass(frozen=True)
class Samples:
    """Training data: inputs by name (n, ...), and classes (n,) where labels are whole numbers."""

    feeds: Mapping[str, Tensor]
    classes: Tensor | None

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.feeds.values())))

    def rows(self, places: NDArray[np.int64]) -> "Samples":
        """Give some samples."""
        index = torch.from_numpy(places)
        classes = self.classes[index] if self.classes is not None else None
        return Samples({k: v[index] for k, v in self.feeds.items()}, classes)


def load(model: Path, data: Path) -> Samples:
    """Read training data for a model.

    Raises:
        Problem: as `data.read`.
        NotApplicableError: shards of several shapes, or inputs without a batch axis.
    """
    inputs = tensor_specs(open_session(model, 1, optimize=False).get_inputs())
    shards = read(data, "training", inputs).shards
    if len({tuple(v.shape[1:] for v in s.arrays.values()) for s in shards}) > 1:
        raise NotApplicableError("training data of several shapes cannot be mixed in batches")
    if any(
        shards[0].arrays[i.name].ndim != i.rank or (i.shape or (None,))[0] not in (None, 1) for i in inputs
    ):
        raise NotApplicableError("inputs without a free batch axis cannot be trained on")
    feeds = {i.name: torch.from_numpy(np.concatenate([s.arrays[i.name] for s in shards])) for i in inputs}
    labels = [s.labels for s in shards]
    classes = None
    if all(label is not None and label.ndim == 1 and label.dtype.kind in "iu" for label in labels):
        classes = torch.from_numpy(np.concatenate([np.asarray(label) for label in labels]).astype(np.int64))
    return Samples(feeds, classes)


@dataclass(frozen=True)
class Consulted:
    """A teacher's answers: to the samples that are taught, and to those that judge which weights are kept.

    `hidden` names the teacher's hidden tensors that teach too; `guide` gives them batch by batch, as they are
    many times larger than the data.
    """

    taught: Samples
    judged: Samples
    expected: Tensor
    goals: Tensor
    views: Views
    guide: TorchGraph | ForeignTeacher
    hidden: tuple[str, ...] = ()

    def lesson_for(self, part: Samples, answers: Tensor) -> list[Tensor]:
        """What a student is to give for some samples: the answers, and the hidden tensors."""
        if not self.hidden:
            return [answers]
        with torch.no_grad():
            return [answers, *self.guide(dict(part.feeds), self.hidden)]


def consult(
    teacher: onnx.ModelProto,
    samples: Samples,
    lesson: Lesson,
    foreign: ForeignTeacher | None = None,
    student: onnx.ModelProto | None = None,
) -> Consulted:
    """Ask the teacher, or `foreign` in its place; a `student` is needed where hidden tensors teach too.

    Raises:
        NotApplicableError: an operator that cannot be run here, or a teacher that takes other inputs.
    """
    torch.set_num_threads(lesson.threads)
    guide = foreign or _by_channel(TorchGraph(teacher, answers(teacher.graph)))
    target = foreign.target if foreign else answers(teacher.graph)
    order = np.random.default_rng(lesson.seed).permutation(samples.count)
    held_out = min(samples.count // _HELD_OUT, _MOST_HELD_OUT)
    judged = samples.rows(order[: max(1, held_out)])
    taught = samples.rows(order[held_out:])
    hidden: list[str] = []
    if lesson.relation == "feature" and student is not None and isinstance(guide, TorchGraph):
        pupil = TorchGraph(student, answers(student.graph))
        hidden = _shared(student, teacher, pupil, guide, judged)

    def answer(feeds: Feeds) -> Tensor:
        return _answers(guide, Samples(feeds, None), [target])[0]

    found = Views()
    if lesson.relation == "response":
        # Hidden tensors move with the image, and distances belong to one view: those have no mean.
        found = views.harmless(judged.feeds, judged.classes, answer)
    expected = views.mean_answer(found, taught.feeds, answer, lesson.seconds)
    goals = views.mean_answer(found, judged.feeds, answer, lesson.seconds)
    return Consulted(taught, judged, expected, goals, found, guide, tuple(hidden))


def train(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    samples: Samples,
    lesson: Lesson,
    rounding: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    foreign: ForeignTeacher | None = None,
    consulted: Consulted | None = None,
) -> onnx.ModelProto:
    """Give the student with trained weights; those that did best on held-out training samples.

    `rounding` says by name what to make of the student's tensors while it learns; `foreign` teaches in place
    of the teacher; `consulted` are answers that were asked for before.

    Raises:
        NotApplicableError: an operator that cannot be trained, or a teacher with another output shape.
    """
    torch.manual_seed(lesson.seed)
    torch.set_num_threads(lesson.threads)
    target = answers(student.graph)
    pupil = _by_channel(TorchGraph(student, target, rounding))
    half = not rounding and pupil.convolutional and "amx_bf16" in cpu.cpu_flags()
    book = consulted or consult(teacher, samples, lesson, foreign, student)
    taught, judged = book.taught, book.judged
    wanted = [target, *book.hidden]
    given = _answers(pupil, judged, [target])[0]
    if given.shape != book.goals.shape:
        raise NotApplicableError(
            f"the teacher answers in the shape {tuple(book.goals.shape[1:])}, "
            f"the student in {tuple(given.shape[1:])}"
        )
    started = time.monotonic()
    if taught.classes is not None and given.dim() == 2 and not rounding:
        # Its noise is harmless to the choice of a class, not to exact values.
        pupil.normalize(dict(taught.rows(np.arange(min(taught.count, BATCH))).feeds))
    if len(pupil.normalizations):
        lesson = replace(lesson, rate=normalization.RATE * lesson.rate)
    pupil.eval()
    best = _harm(pupil, target, book, lesson)
    kept: dict[str, Tensor] | None = None
    optimizer = torch.optim.Adam(pupil.parameters(), lr=lesson.rate)
    total = max(lesson.epochs * -(-taught.count // BATCH), 1)
    done = 0
    progress = 0.0
    rng = np.random.default_rng(lesson.seed)
    count = 1 if rounding else max(min(lesson.threads, BATCH // _LEAST_PART), 1)
    draws = [rng, *(np.random.default_rng([lesson.seed, number]) for number in range(1, count))]

    def loss(network: TorchGraph, part: Part) -> Tensor:
        index = torch.from_numpy(part.places)
        rows = taught.rows(part.places)
        with torch.autocast("cpu", torch.bfloat16, enabled=half and progress < _HALF):
            outputs = [o.float() for o in network(book.views.varied(rows.feeds, part.rng), wanted)]
        given = loss_of(outputs, book.lesson_for(rows, book.expected[index]), rows.classes, lesson)
        return part.weight * given

    with Replicas[Part](pupil, count, lesson.threads) as replicas:
        for _ in range(lesson.epochs):
            shuffled = rng.permutation(taught.count)
            pupil.train()
            for start in range(0, taught.count, BATCH):
                spent = (time.monotonic() - started) / lesson.seconds
                progress = max(done / total, spent)
                optimizer.param_groups[0]["lr"] = rate(lesson, progress)
                replicas.learn(parts_of(shuffled[start : start + BATCH], draws), loss)
                torch.nn.utils.clip_grad_norm_(pupil.parameters(), 5.0)
                optimizer.step()
                done += 1
                if spent > 1:
                    break
            few = taught.rows(shuffled[:_COUNTED])
            normalization.settle(pupil.normalizations, partial(_answers, pupil, few, [target]))
            pupil.eval()
            harm = _harm(pupil, target, book, lesson)
            if harm < best:
                best, kept = harm, {k: v.clone() for k, v in pupil.state_dict().items()}
            if time.monotonic() - started > lesson.seconds:
                break
    result = onnx.ModelProto()
    result.CopyFrom(student)
    if kept is not None:
        pupil.load_state_dict(kept)
        pupil.write(result)
    return result


@dataclass(frozen=True)
class Part:
    """Samples of a batch that one copy of the network learns from, and how much they weigh in it."""

    places: NDArray[np.int64]
    rng: np.random.Generator
    weight: float


def parts_of(places: NDArray[np.int64], draws: Sequence[np.random.Generator]) -> list[Part]:
    """Split a batch among copies, one for each generator; there are fewer parts where samples are few."""
    rows = [r for r in np.array_split(places, len(draws)) if len(r)]
    return [Part(r, rng, len(r) / len(places)) for r, rng in zip(rows, draws, strict=False)]


def untrained_loss(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    samples: Samples,
    lesson: Lesson,
    rounding: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> float:
    """Loss of the student as it is, on some of the samples."""
    target, source = answers(student.graph), answers(teacher.graph)
    pupil, guide = TorchGraph(student, target, rounding), TorchGraph(teacher, source)
    few = samples.rows(np.arange(min(samples.count, _COMPARED)))
    goals = _answers(guide, few, [source])[0]
    return _harm(pupil, target, Consulted(few, few, goals, goals, Views(), guide), lesson)


def _by_channel(graph: TorchGraph) -> TorchGraph:
    """Lay the weights out with the channels last, and thereby all that convolutions make of them: that is how
    CPUs compute them, and every layer is spared two changes of layout (1.3 times faster)."""
    laid_out: TorchGraph = graph.to(memory_format=torch.channels_last)
    return laid_out


def _answers(graph: TorchGraph | ForeignTeacher, samples: Samples, wanted: Sequence[str]) -> list[Tensor]:
    parts: list[list[Tensor]] = []
    with torch.no_grad():
        for start in range(0, samples.count, _RUN):
            places = np.arange(start, min(start + _RUN, samples.count))
            parts.append(graph(dict(samples.rows(places).feeds), wanted))
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _harm(pupil: TorchGraph, target: str, book: Consulted, lesson: Lesson) -> float:
    """Mean loss on the samples that judge, in batches."""
    judged, total = book.judged, 0.0
    with torch.no_grad():
        for start in range(0, judged.count, _RUN):
            places = np.arange(start, min(start + _RUN, judged.count))
            part = judged.rows(places)
            outputs = pupil(dict(part.feeds), [target, *book.hidden])
            goals = book.lesson_for(part, book.goals[torch.from_numpy(places)])
            total += len(places) * float(loss_of(outputs, goals, part.classes, lesson))
    return total / judged.count


def _shared(
    student: onnx.ModelProto, teacher: onnx.ModelProto, pupil: TorchGraph, guide: TorchGraph, samples: Samples
) -> list[str]:
    """Hidden tensors that both have in the same shape: what activations give, at most four."""
    makers = {
        o for n in student.graph.node if n.op_type in ("Relu", "Add", "Clip", "HardSwish") for o in n.output
    }
    names = [o for n in teacher.graph.node for o in n.output if o in makers]
    few = samples.rows(np.arange(min(2, samples.count)))
    known: list[str] = []
    for name in names:
        try:
            shapes = [_answers(graph, few, [name])[0].shape for graph in (pupil, guide)]
        except KeyError:
            continue
        if shapes[0] == shapes[1]:
            known.append(name)
    return known[-4:]


def gradients(
    model: onnx.ModelProto, teacher: onnx.ModelProto, samples: Samples, lesson: Lesson
) -> dict[str, Any]:
    """Sums of weight x gradient over batches, in each weight's shape (Molchanov et al. 2019)."""
    target = answers(model.graph)
    graph, guide = TorchGraph(model, target), TorchGraph(teacher, answers(teacher.graph))
    few = samples.rows(np.arange(min(samples.count, 8 * BATCH)))
    expected = _answers(guide, few, [answers(teacher.graph)])[0]
    totals = {name: np.zeros(tuple(w.shape)) for name, w in graph.named().items()}
    for start in range(0, few.count, BATCH):
        places = np.arange(start, min(start + BATCH, few.count))
        part = few.rows(places)
        outputs = graph(dict(part.feeds), [target])
        loss = loss_of(outputs, [expected[torch.from_numpy(places)]], part.classes, lesson)
        graph.zero_grad()
        loss.backward()
        for name, weight in graph.named().items():
            if weight.grad is not None:
                totals[name] += (weight.detach() * weight.grad).numpy()
    return totals
