"""Structured pruning: whole filters, channels and neurons go, so that any runtime is faster for it."""

from collections.abc import Sequence
from dataclasses import replace

import onnx
from longshore.api.optimize import TechniqueName

from longshore_optimizer.techniques import blocks, students
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NotApplicableError,
    Proposal,
    TargetFacts,
    Work,
    lacks_training,
)
from longshore_optimizer.techniques.latency_pruning import Referee, to_limit
from longshore_optimizer.techniques.survey import by_share, pruned, survey_of

_SHARES = (0.2, 0.4, 0.6)
_TRAINED = ((0.55, "polynomial"), (0.75, "polynomial"), (0.55, "constant"))
"""Shares and schedules where training data is given."""

_WEIGHTS = 0.85
"""Share of a file in 8 bits that weights take: the graph, scales and biases need the rest."""


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
        block = blocks.asked(target)

        def add(name: str, parameters: dict[str, object], *, trains: bool = False) -> tuple[Proposal, ...]:
            student = Proposal(f"structured-{name}", self.name, parameters | block, trains=trains)
            forms = students.in_eight_bits_too(student, model, target)
            forms = sized(forms, target) if trains and must_shrink(model, target) else forms
            proposals.extend(forms)
            return forms

        if target.calibration and target.p95_limit_ms is not None:
            limit = {"criterion": "reconstruction", "p95LimitMs": target.p95_limit_ms}
            proposals.append(Proposal("structured-to-limit", self.name, limit | block))
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
                    {"criterion": kind, "share": _SHARES[0]} | block,
                )
                for kind in ("norm", "activation", "information")
            ]
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Prune; raises NotApplicableError where no channels can be removed."""
        # Another teacher than the original is for distillation.
        students.write(replace(work, teacher=None), _smaller_model)


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
        removals = to_limit(survey, Referee(work), float(limit))
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
