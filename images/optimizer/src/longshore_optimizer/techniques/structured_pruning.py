"""Structured pruning: whole filters, channels and neurons go, so that any runtime is faster for it."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from numpy.typing import NDArray

from longshore_optimizer.data import batches, read
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import channels, coupling, elimination, onnxfile, students
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NotApplicableError,
    Proposal,
    TargetFacts,
    Work,
    lacks_training,
)
from longshore_optimizer.techniques.channels import Channels
from longshore_optimizer.techniques.coupling import Coupling, Group
from longshore_optimizer.techniques.elimination import Ranking

_SHARES = (0.2, 0.4, 0.6)
_TRAINED = ((0.55, "polynomial"), (0.75, "polynomial"), (0.55, "constant"))
"""Shares and schedules where training data is given."""

_LEAST_CHANNELS = 8
_MOST_FEATURES = 4096
"""Readers of more features are not pruned into: their second moments would not fit into memory."""

_STEP = 0.08
"""Share of the latency that one step of the measured mode takes away."""

_WEIGHTS = 0.85
"""Share of a file in 8 bits that weights take: the graph, scales and biases need the rest."""

_GRAPH = 3.0
"""How many times larger the graph is with QuantizeLinear and DequantizeLinear at every tensor."""

_A_CHANNEL = 16
"""Bytes for each bias: in 32 bits, with a scale, a zero point and their weight's scale."""

_MOST_SECONDS = 240.0
_JUDGED = 32

Removals = dict[int, int]
"""How many channels go, by space."""

Judge = Callable[[onnx.ModelProto], tuple[float, float]]
"""Gives a model's p95 in ms and the squared error of its answers relative to the original's."""


class StructuredPruning:
    """Removes coupled channels and lets the layers behind make up for them, by least squares on data.

    Where to prune is searched: each step takes channels from the group that loses least a product saved.
    """

    name = TechniqueName.STRUCTURED_PRUNING

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Convolutions or matrix products, float32 weights and calibration data are needed."""
        if model.quantized:
            return "the model is quantized already"
        if not model.count("Conv", "ConvTranspose", "MatMul", "Gemm") or not model.weight_bytes:
            return "the model has no convolution or matrix product to prune"
        if not target.calibration and lacks_training(target) is not None:
            return "structured pruning needs calibration data: add optimize.calibration"
        return None

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """To the latency limit where there is one, trained where that can be, then by shares and criteria.

        Where 8 bits alone do not meet a limit on the size, what is trained loses more channels until it does.
        """
        proposals: list[Proposal] = []

        def add(name: str, parameters: dict[str, object], *, trains: bool = False) -> tuple[Proposal, ...]:
            student = Proposal(f"structured-{name}", self.name, parameters, trains=trains)
            forms = students.in_eight_bits_too(student, model, target)
            forms = sized(forms, target) if trains and must_shrink(model, target) else forms
            proposals.extend(forms)
            return forms

        if target.calibration and target.p95_limit_ms is not None:
            limit = {"criterion": "reconstruction", "p95LimitMs": target.p95_limit_ms}
            proposals.append(Proposal("structured-to-limit", self.name, limit))
        if lacks_training(target) is None:
            trained = [
                add(
                    f"trained-{share * 100:g}-{kind}",
                    {"criterion": "taylor", "share": share, "schedule": kind},
                    trains=True,
                )
                for share, kind in _TRAINED
            ]
            proposals += students.continued(trained[0])
        if target.calibration:
            first = len(proposals)
            for share in _SHARES:
                add(f"{share * 100:g}", {"criterion": "reconstruction", "share": share})
            # The fastest first; what was pruned for them is only read for the others.
            proposals[first:] = sorted(proposals[first:], key=lambda p: not p.parameters.get("int8"))
            proposals += [
                Proposal(
                    f"structured-{kind}-{_SHARES[0] * 100:g}",
                    self.name,
                    {"criterion": kind, "share": _SHARES[0]},
                )
                for kind in ("norm", "activation", "information")
            ]
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Prune; raises NotApplicableError where no channels can be removed."""
        students.write(work, _smaller_model)


def _smaller_model(work: Work) -> onnx.ModelProto:
    if work.parameters["criterion"] == "taylor":
        from longshore_optimizer.techniques import iterative_pruning

        return iterative_pruning.prune(work)
    if work.calibration is None:
        raise ValueError("structured pruning needs calibration data")
    survey = survey_of(work, work.calibration, str(work.parameters["criterion"]))
    limit = work.parameters.get("p95LimitMs")
    if limit is None:
        removals = by_share(survey, float(work.parameters["share"]))
    else:
        removals = to_limit(survey, _Judge(work), float(limit))
    if not any(removals.values()):
        raise NotApplicableError("no group of channels can be made smaller")
    return pruned(survey, removals)


def must_shrink(model: ModelFacts, target: TargetFacts) -> bool:
    """Whether weights of 8 bits alone are over the limit on the size."""
    return target.size_limit is not None and model.weight_bytes / 4 > _WEIGHTS * target.size_limit


def sized(forms: Sequence[Proposal], target: TargetFacts) -> tuple[Proposal, ...]:
    """Give the forms in 8 bits, pruned further to the limit on the size, which other forms cannot meet."""
    eight = [form for form in forms if form.parameters.get("int8")]
    limit = {"sizeLimit": target.size_limit}
    return tuple(
        replace(form, name=f"{form.name}-to-size", parameters=form.parameters | limit) for form in eight
    ) or tuple(forms)


@dataclass(frozen=True)
class Survey:
    """A model with its groups, the order in which channels of each would go, and what each channel costs.

    `steps` is how many channels go at a time; `costs` are products (multiply-accumulates) for each channel.
    """

    model: onnx.ModelProto
    coupling: Coupling
    groups: Mapping[int, Group]
    rankings: Mapping[int, Ranking]
    steps: Mapping[int, int]
    costs: Mapping[int, float]
    seen: Mapping[str, Channels]

    @property
    def products(self) -> float:
        """Products of one sample that go through weights."""
        uses = coupling.places_of(self.model)
        tensors = onnxfile.float_initializers(self.model)
        names = {s.weight for s in self.coupling.slices if len(tensors[s.weight].dims) > 1}
        return float(sum(np.prod(tensors[n].dims) * uses.get(n, 1) for n in names))


def survey_of(work: Work, data: Path, criterion: str) -> Survey:
    """Survey the model that a technique starts from; other shares of it ask for the same one.

    Raises:
        NotApplicableError: as `take_survey`.
    """
    return _survey_of(work.model, work.model.stat().st_mtime_ns, data, work.scratch, work.threads, criterion)


@lru_cache(maxsize=1)
def _survey_of(
    model: Path, written: int, data: Path, scratch: Path, threads: int, criterion: str
) -> "Survey":
    """`written` tells apart models that one path has held."""
    del written
    return take_survey(onnxfile.load(model), data, scratch, threads, criterion)


def take_survey(model: onnx.ModelProto, data: Path, scratch: Path, threads: int, criterion: str) -> Survey:
    """Find the groups, watch their channels on calibration data and rank them by a criterion.

    Criteria: `reconstruction`, `norm`, `activation`, `information`.

    Raises:
        NotApplicableError: no channels can be removed.
    """
    traced = coupling.trace(model)
    tensors = onnxfile.float_initializers(model)
    groups = [
        g
        for g in traced.groups
        if g.size >= _LEAST_CHANNELS
        and all(tensors[r.weight].dims[r.weight_axis] <= _MOST_FEATURES for r in g.readers)
    ]
    if not groups:
        raise NotApplicableError(
            "every group of channels is tied to the model's outputs or to unknown operators"
        )
    wanted = {r.tensor: r.axis for g in groups for r in g.readers}
    answers = model.graph.output[0].name
    seen = channels.observe(model, {answers: -1, **wanted}, data, scratch, threads, second=True)
    groups = [g for g in groups if all(_matches(traced, r, seen) for r in g.readers)]
    rankings = {}
    for group in groups:
        if criterion == "norm":
            rankings[group.space] = elimination.by_norm(model, traced, group)
        elif criterion == "activation":
            rankings[group.space] = elimination.by_activation(traced, group, seen)
        elif criterion == "information":
            if answers not in seen or seen[answers].samples.shape[1:] < (2,):
                raise NotApplicableError("the model's first output holds no classes")
            classes = np.argmax(seen[answers].samples, axis=1)
            rankings[group.space] = elimination.by_information(traced, group, seen, classes)
        else:
            rankings[group.space] = elimination.by_reconstruction(model, traced, group, seen)
    uses = coupling.places_of(model)
    costs = {}
    for group in groups:
        parts = {
            name
            for name in (
                *(s.weight for s in (*group.makers, *group.others)),
                *(r.weight for r in group.readers),
            )
            if len(tensors[name].dims) > 1
        }
        costs[group.space] = float(sum(np.prod(tensors[w].dims) * uses.get(w, 1) for w in parts)) / group.size
    # Kernels work on 8 or 16 channels at once: odd numbers of channels save nothing.
    steps = {g.space: 8 if g.size >= 32 else 4 if g.size >= 16 else 2 for g in groups}
    return Survey(model, traced, {g.space: g for g in groups}, rankings, steps, costs, seen)


def _matches(traced: Coupling, reader: coupling.Reader, seen: Mapping[str, Channels]) -> bool:
    count = sum(traced.sizes[s.space] * s.block for s in reader.layout)
    return reader.tensor in seen and len(seen[reader.tensor].second) == count


def by_share(survey: Survey, share: float) -> Removals:
    """Remove `share` of the products: always where the loss for each product saved is least."""
    removals = dict.fromkeys(survey.groups, 0)
    saved, wanted = 0.0, share * survey.products
    while saved < wanted:
        choices = [s for s in survey.groups if _can_go_on(survey, removals, s)]
        if not choices:
            break
        space = min(choices, key=lambda s: _price(survey, removals, s))
        removals[space] += survey.steps[space]
        saved += survey.costs[space] * survey.steps[space]
    return removals


def to_size(survey: Survey, removals: Removals, limit: int | None) -> Removals:
    """Remove more until the weights in 8 bits fit into a file of `limit` bytes, least loss a byte first.

    Raises:
        NotApplicableError: they do not fit however much goes.
    """
    removals = dict(removals)
    room = limit - _beside_weights(survey.model) if limit is not None else 0.0
    while limit is not None and elements(survey, removals) > room:
        best: tuple[float, int] | None = None
        for space in survey.groups:
            if not _can_go_on(survey, removals, space):
                continue
            step = survey.steps[space]
            saved = elements(survey, removals) - elements(survey, removals | {space: removals[space] + step})
            price = _loss(survey, removals, space) / max(saved, 1)
            best = min(best or (price, space), (price, space))
        if best is None:
            raise NotApplicableError("however many channels go, the model stays over limits.size")
        removals[best[1]] += survey.steps[best[1]]
    return removals


def _beside_weights(model: onnx.ModelProto) -> float:
    """Bytes of a file in 8 bits that are not weights: nodes that quantize, scales, and biases of 32 bits."""
    tensors = onnxfile.float_initializers(model).values()
    graph = int(model.ByteSize()) - sum(4 * int(np.prod(t.dims)) for t in tensors)
    vectors = sum(int(np.prod(t.dims)) for t in tensors if len(t.dims) < 2)
    return _GRAPH * graph + _A_CHANNEL * vectors


def elements(survey: Survey, removals: Removals) -> int:
    """How many float32 weights are left."""
    dims = {n: list(t.dims) for n, t in onnxfile.float_initializers(survey.model).items()}
    for part in survey.coupling.slices:
        for segment in part.layout:
            dims[part.weight][part.axis] -= removals.get(segment.space, 0) * segment.block
    return int(sum(np.prod(d, dtype=np.int64) for d in dims.values()))


def _can_go_on(survey: Survey, removals: Removals, space: int) -> bool:
    return removals[space] + survey.steps[space] <= survey.groups[space].size - survey.steps[space]


def _loss(survey: Survey, removals: Removals, space: int) -> float:
    """What the next step of a group loses."""
    losses, done, step = survey.rankings[space].losses, removals[space], survey.steps[space]
    return float(losses[done + step - 1] - (losses[done - 1] if done else 0.0))


def _price(survey: Survey, removals: Removals, space: int) -> float:
    return _loss(survey, removals, space) / (survey.costs[space] * survey.steps[space])


def pruned(survey: Survey, removals: Removals) -> onnx.ModelProto:
    """Give a copy of the model without the channels that go first, the layers behind compensated."""
    model = onnx.ModelProto()
    model.CopyFrom(survey.model)
    kept: dict[int, NDArray[np.int64]] = {}
    for space, count in removals.items():
        if not count:
            continue
        group, gone = survey.groups[space], survey.rankings[space].order[:count]
        elimination.compensate(model, survey.coupling, group, gone, dict(survey.seen))
        kept[space] = np.setdiff1d(np.arange(group.size), gone)
    coupling.cut(model, survey.coupling, kept)
    return model


class _Judge:
    """Times a model and compares its answers with those of the original on calibration data."""

    def __init__(self, work: Work) -> None:
        self._path = work.scratch / "step.onnx"
        self._threads = work.threads
        session = open_session(work.model, work.threads)
        self._inputs = tensor_specs(session.get_inputs())
        data = read(Path(str(work.calibration)), "calibration", self._inputs).head(_JUDGED)
        self._feeds = [b.feeds for b in batches(data, self._inputs)]
        self._expected = self._answers(session)

    def _answers(self, session: Any) -> NDArray[np.float64]:
        runs = [session.run(None, f) for f in self._feeds]
        parts = [
            np.asarray(v, np.float64).ravel() for run in runs for v in run if np.asarray(v).dtype.kind == "f"
        ]
        return np.concatenate(parts)

    def __call__(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Give p95 in ms and the squared error relative to the original's answers."""
        onnxfile.save(model, self._path)
        session = open_session(self._path, self._threads)
        self._path.unlink()
        answers = self._answers(session)
        comparable = answers.shape == self._expected.shape
        harm = float(np.sum((answers - self._expected) ** 2)) if comparable else float("inf")
        return self._p95(session), harm / max(float(np.sum(self._expected**2)), 1e-30)

    def _p95(self, session: Any) -> float:
        # The middle of three rounds: one that the host interrupted does not count.
        return statistics.median(self._round(session) for _ in range(3))

    def _round(self, session: Any) -> float:
        latencies: list[float] = []
        started = time.perf_counter()
        while len(latencies) < 100 and (len(latencies) < 9 or time.perf_counter() - started < 0.05):
            begun = time.perf_counter()
            session.run(None, self._feeds[len(latencies) % len(self._feeds)])
            latencies.append((time.perf_counter() - begun) * 1000)
        return statistics.quantiles(latencies, n=20)[-1]


def to_limit(survey: Survey, judge: Judge, limit_ms: float) -> Removals:
    """Prune step by step against measured latency until the limit is met (NetAdapt, Yang et al. 2018).

    Each step asks every group for the same share of the latency and keeps what harms the answers least.
    Where no group alone gives that share, or a lucky measurement asks for too much, ever more channels go
    from the group that they harm least.
    """
    started = time.monotonic()
    removals, stride = dict.fromkeys(survey.groups, 0), 1
    current, _ = judge(survey.model)
    while current > limit_ms and time.monotonic() - started < _MOST_SECONDS:
        wanted = max(limit_ms, current * (1 - _STEP))
        options = [
            option
            for space in survey.groups
            if (option := _smaller(survey, judge, removals, space, wanted)) is not None
        ]
        if options:
            stride = 1
        else:
            open_groups = [space for space in survey.groups if _can_go_on(survey, removals, space)]
            options = [
                _judged(survey, judge, _without(survey, removals, space, stride)) for space in open_groups
            ]
            stride *= 2
        if not options:
            break
        _, current, removals = min(options, key=lambda o: (o[0], o[1]))
    return removals


def _smaller(
    survey: Survey, judge: Judge, removals: Removals, space: int, wanted_ms: float
) -> tuple[float, float, Removals] | None:
    """Take ever more channels out of one group until it is as fast as wanted; gives harm, p95, removals."""
    steps, tried = 1, removals
    while _can_go_on(survey, tried, space):
        tried = _without(survey, tried, space, steps)
        option = _judged(survey, judge, tried)
        if option[1] <= wanted_ms:
            return option
        steps *= 2
    return None


def _judged(survey: Survey, judge: Judge, removals: Removals) -> tuple[float, float, Removals]:
    p95, harm = judge(pruned(survey, removals))
    return harm, p95, removals


def _without(survey: Survey, removals: Removals, space: int, steps: int) -> Removals:
    """Take so many steps of channels more out of a group, or as many as may go."""
    tried = dict(removals)
    for _ in range(steps):
        if _can_go_on(survey, tried, space):
            tried[space] += survey.steps[space]
    return tried
