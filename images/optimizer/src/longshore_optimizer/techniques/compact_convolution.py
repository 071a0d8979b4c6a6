"""Compact convolutions: dense kernels become depthwise-separable or grouped, and learn to do the same."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from numpy.typing import NDArray
from onnx import helper

from longshore_optimizer.techniques import channels, editing, onnxfile, students
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NotApplicableError,
    Proposal,
    TargetFacts,
    Work,
    lacks_training,
)
from longshore_optimizer.techniques.editing import Weights
from longshore_optimizer.techniques.low_rank_convolution import Stage, replacement
from longshore_optimizer.techniques.prepare import infer

LEAST_CHANNELS = 16
"""Below this a dense convolution is cheap, and has no channels to spare."""

_WORTH = 0.8
"""A replacement is made only where it needs less than 80 % of the products."""

_DAMPING = 1e-3
_TRAINING_SHARE = 0.7

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """What a dense convolution becomes: `separable`, with `number` kernels for each input channel, or
    `grouped`, in `number` groups."""

    kind: Literal["separable", "grouped"]
    number: int


class CompactConvolution:
    """Depthwise-separable convolutions (Howard et al. 2017), or groups with channel shuffle between them
    (Zhang et al. 2017); trained on labels, on the original's answers and on its hidden tensors."""

    name = TechniqueName.COMPACT_CONVOLUTION

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Convolutions, training data and PyTorch are needed."""
        if model.quantized:
            return "the model is quantized already"
        if not model.count("Conv") or not model.weight_bytes:
            return "the model has no convolution"
        return lacks_training(target)

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """From the cheapest form to the dearest, each in eight bits too."""
        proposals: list[Proposal] = []
        for kind, number in (("separable", 1), ("separable", 2), ("grouped", 4), ("grouped", 2)):
            student = Proposal(
                f"compact-{kind}-{number}", self.name, {"form": kind, "number": number}, trains=True
            )
            forms = students.in_eight_bits_too(student, model, target)
            # The cheapest form alone: the others are for where it fails.
            proposals += forms if proposals else (*forms, *students.continued(forms))
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Replace, train, quantize where asked to; NotApplicableError where no convolution gets cheaper."""
        # Another teacher than the original is for distillation.
        students.write(replace(work, teacher=None), _student)


def _student(work: Work) -> onnx.ModelProto:
    from longshore_optimizer.techniques import training
    from longshore_optimizer.techniques.lesson import Lesson

    if work.training is None:
        raise ValueError("compact convolutions need training data")
    teacher = onnxfile.load(work.model)
    samples = training.load(work.model, work.training)
    data = work.calibration or work.training
    form = Form(work.parameters["form"], int(work.parameters["number"]))
    layers = dense(teacher)
    chosen = {name: form for name, weight in layers.items() if fits(weight, form)}
    if not chosen:
        raise NotApplicableError(
            f"no dense convolution with a kernel over 1 and at least {LEAST_CHANNELS} channels "
            "on both sides gets cheaper"
        )
    wanted = {n.input[0]: 1 - layers[n.name].ndim for n in teacher.graph.node if n.name in chosen}
    seen = channels.observe(teacher, wanted, data, work.scratch, work.threads, second=True)
    student = replaced(teacher, chosen, {name: s.second for name, s in seen.items()})
    lesson = Lesson(
        relation="feature",
        epochs=work.passes(20),
        seconds=_TRAINING_SHARE * work.seconds,
        seed=work.seed,
        threads=work.threads,
    )
    return training.train(student, teacher, samples, lesson)


def dense(model: onnx.ModelProto) -> dict[str, Weights]:
    """Weights (out, in, *kernel) of the convolutions that may be replaced, by the names of their nodes."""
    weights = editing.replaceable(model, LEAST_CHANNELS**2)
    readers = editing.users(model.graph)
    return {
        node.name: weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "Conv"
        and editing.attribute(node, "group", 1) == 1
        and node.input[1] in weights
        and len(readers[node.input[1]]) == 1
        and min(weights[node.input[1]].shape[:2]) >= LEAST_CHANNELS
        and np.prod(weights[node.input[1]].shape[2:]) > 1
    }


def fits(weight: Weights, form: Form) -> bool:
    """Whether the form can stand in for a dense convolution and is cheaper."""
    outs, ins = weight.shape[:2]
    area = int(np.prod(weight.shape[2:]))
    if form.kind == "grouped":
        return form.number > 1 and outs % form.number == 0 and ins % form.number == 0
    return form.number <= area and form.number * ins * (area + outs) < _WORTH * weight.size


def replaced(
    model: onnx.ModelProto, forms: Mapping[str, Form], moments: Mapping[str, Floats]
) -> onnx.ModelProto:
    """Give a copy with other convolutions in place of those named, as near to them as weights can be without
    training; `moments` gives E[x x^T] (channels, channels) of inputs by name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = dense(copy)
    nodes: list[onnx.NodeProto] = []
    # Tensors whose channels know only their own group's inputs.
    apart: set[str] = set()
    for node in copy.graph.node:
        form = forms.get(node.name)
        if form is None:
            nodes.append(node)
            if _mixes(node) or not apart.intersection(node.input):
                continue
            apart.update(node.output)
        elif form.kind == "separable":
            nodes += replacement(copy.graph, node, separable(weights[node.name], form.number))
        else:
            order = np.arange(weights[node.name].shape[1])
            if node.input[0] in apart:
                order = order.reshape(form.number, -1).T.reshape(-1)
                nodes.append(_shuffle(copy.graph, node, order))
            weight = grouped(weights[node.name], form.number, order, moments.get(node.input[0]))
            made = replacement(copy.graph, node, (Stage(weight, spatial=True, group=form.number),))
            if node.input[0] in apart:
                made[0].input[0] = nodes[-1].output[0]
            nodes += made
            apart.add(node.output[0])
    gone = {node.input[1] for node in copy.graph.node if node.name in forms}
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    editing.remove_initializers(copy.graph, gone)
    return infer(copy)


def _mixes(node: onnx.NodeProto) -> bool:
    return node.op_type in ("MatMul", "Gemm", "ConvTranspose") or (
        node.op_type == "Conv" and editing.attribute(node, "group", 1) == 1
    )


def _shuffle(graph: onnx.GraphProto, node: onnx.NodeProto, order: NDArray[np.int64]) -> onnx.NodeProto:
    """Give every group channels of all groups before it. One Gather, whatever the size of the image."""
    places = editing.add_constant(graph, f"{node.input[1]}.order", order.astype(np.int64))
    shuffled = f"{node.input[1]}.shuffled"
    return helper.make_node("Gather", [node.input[0], places], [shuffled], name=shuffled, axis=1)


def separable(weight: Weights, number: int) -> tuple[Stage, ...]:
    """Give `number` kernels for each input channel and the 1x1 convolution that mixes them: the truncated SVD
    of each channel's kernels, as near to the weights as two such layers come."""
    outs, ins = weight.shape[:2]
    kernel = weight.shape[2:]
    values = weight.astype(np.float64).reshape(outs, ins, -1).transpose(1, 0, 2)
    left, sizes, right = np.linalg.svd(values, full_matrices=False)
    root = np.sqrt(sizes[:, :number])
    # Places of the middle channels: those of one input channel lie side by side.
    spatial = (root[:, :, None] * right[:, :number]).reshape(ins * number, 1, *kernel)
    mixing = (left[:, :, :number] * root[:, None, :]).transpose(1, 0, 2).reshape(outs, ins * number)
    return (
        Stage(spatial.astype(np.float32), spatial=True, group=ins),
        Stage(mixing.astype(np.float32).reshape(outs, -1, *(1,) * len(kernel)), spatial=False),
    )


def grouped(weight: Weights, groups: int, order: NDArray[np.int64], moments: Floats | None) -> Weights:
    """Give the weight of a grouped convolution over channels in `order`; channels that a group does not see
    are made up for by those that it does, by least squares where second moments are known."""
    outs, ins = weight.shape[:2]
    rows, columns = outs // groups, ins // groups
    parts = []
    for group in range(groups):
        seen = order[group * columns : (group + 1) * columns]
        part = weight[group * rows : (group + 1) * rows].astype(np.float64)
        if moments is None or len(moments) != ins:
            parts.append(part[:, seen])
            continue
        inner = moments[np.ix_(seen, seen)]
        inner = inner + _DAMPING * max(float(np.mean(np.diag(inner))), 1e-12) * np.eye(columns)
        spread = np.linalg.solve(inner, moments[seen])
        parts.append(np.einsum("si,oi...->os...", spread, part))
    return np.concatenate(parts).astype(np.float32)
