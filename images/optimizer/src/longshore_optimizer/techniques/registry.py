"""All techniques, in the order in which they are tried."""

from collections.abc import Iterable
from dataclasses import replace

from longshore.api.optimize import Goal, TechniqueName

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.techniques.architecture_search import ArchitectureSearch
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Technique
from longshore_optimizer.techniques.bfloat16 import BFloat16
from longshore_optimizer.techniques.compact_convolution import CompactConvolution
from longshore_optimizer.techniques.distillation import Distillation
from longshore_optimizer.techniques.dynamic_int8 import DynamicInt8
from longshore_optimizer.techniques.float16 import Float16
from longshore_optimizer.techniques.graph import Graph
from longshore_optimizer.techniques.low_rank import LowRank
from longshore_optimizer.techniques.quantization_aware import QuantizationAwareTraining
from longshore_optimizer.techniques.smooth_quant import SmoothQuant
from longshore_optimizer.techniques.static_int8 import StaticInt8
from longshore_optimizer.techniques.structured_pruning import StructuredPruning
from longshore_optimizer.techniques.unstructured_pruning import UnstructuredPruning
from longshore_optimizer.techniques.weight_only import WeightOnly
from longshore_optimizer.techniques.weight_sharing import WeightSharing

TECHNIQUES: dict[TechniqueName, Technique] = {
    t.name: t
    for t in (
        Graph(),
        StaticInt8(),
        DynamicInt8(),
        WeightOnly(),
        SmoothQuant(),
        QuantizationAwareTraining(),
        StructuredPruning(),
        Distillation(),
        CompactConvolution(),
        ArchitectureSearch(),
        LowRank(),
        Float16(),
        BFloat16(),
        WeightSharing(),
        UnstructuredPruning(),
    )
}


def parse_technique(text: str) -> TechniqueName:
    """Find a technique by name, in any case and with or without separators.

    Raises:
        Problem: UnknownTechnique with the names that there are.
    """
    key = "".join(c for c in text.lower() if c.isalnum())
    for name in TechniqueName:
        if name.value.lower() == key:
            return name
    raise Problem(
        Reason.UNKNOWN_TECHNIQUE,
        f"unknown technique {text!r}: use one of {', '.join(n.value for n in TechniqueName)}",
    )


def propose(
    wanted: Iterable[TechniqueName], model: ModelFacts, target: TargetFacts
) -> tuple[tuple[Proposal, ...], tuple[tuple[TechniqueName, str], ...]]:
    """Give the candidates of all wanted techniques, round by round, and the techniques left out with the
    reason.

    Those that only save bytes come last, unless bytes are the goal. An escalation of what is not among them
    is a candidate like any other.
    """
    names = set(wanted)
    everything = TechniqueName.AUTO in names
    spaces: list[tuple[Proposal, ...]] = []
    skipped: list[tuple[TechniqueName, str]] = []
    for name, technique in TECHNIQUES.items():
        if not everything and name not in names:
            continue
        reason = technique.applies(model, target)
        if reason is not None:
            skipped.append((name, reason))
            continue
        spaces.append(technique.space(model, target))
    if not everything:
        skipped += [
            (n, "this version has no such technique: remove it from techniques")
            for n in TechniqueName
            if n in names and n not in TECHNIQUES and n is not TechniqueName.CASCADE
        ]
    longest = max((len(s) for s in spaces), default=0)
    rounds = [space[i] for i in range(longest) for space in spaces if i < len(space)]
    known = {p.name for p in rounds}
    rounds = [p if p.after in known else replace(p, after=None) for p in rounds]
    if target.goal is not Goal.SIZE:
        rounds.sort(key=lambda p: p.size_only)
    return tuple(rounds), tuple(skipped)
