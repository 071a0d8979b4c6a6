"""Graph rewrites that keep the function: constant folding, dead code, opset upgrade."""

from longshore.api.optimize import TechniqueName

from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work


class Graph:
    """The prepared model itself: what slimming and a recent opset give."""

    name = TechniqueName.GRAPH

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Any graph can be slimmed."""
        del model, target
        return None

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """One candidate: constants folded, dead nodes removed."""
        del model, target
        return (Proposal("graph-slim", self.name, {}, lossless=True),)

    def apply(self, work: Work) -> None:
        """Write the prepared model without the inferred shapes, which only tools need."""
        model = onnxfile.load(work.model)
        del model.graph.value_info[:]
        onnxfile.save(model, work.out)
