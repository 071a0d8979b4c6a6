"""Graph rewrites that keep the function: constant folding, dead code, opset upgrade, transformer fusions."""

from longshore.api.optimize import TechniqueName

from longshore_optimizer.techniques import fusions, onnxfile
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, Proposal, TargetFacts, Work


class Graph:
    """The prepared model itself: what slimming and a recent opset give; and with its transformers fused.

    Layouts that suit the CPU's kernels (NCHWc) are chosen by the runtime whenever it loads a model, as they
    depend on the CPU.
    """

    name = TechniqueName.GRAPH

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Any graph can be slimmed."""
        del model, target
        return None

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Constants folded and dead nodes removed; and what else there is to fuse."""
        del target
        slim = Proposal("graph-slim", self.name, {}, lossless=True)
        if not fusions.may_fuse(model.operators):
            return (slim,)
        return (slim, Proposal("graph-fused", self.name, {"fused": True}, lossless=True))

    def apply(self, work: Work) -> None:
        """Write the prepared model without the inferred shapes, which only tools need.

        Raises:
            NotApplicableError: nothing can be fused.
        """
        model = onnxfile.load(work.model)
        if work.parameters.get("fused"):
            model, count = fusions.fuse(model)
            if not count:
                raise NotApplicableError("no attention, normalization or activation to fuse was found")
        del model.graph.value_info[:]
        onnxfile.save(model, work.out)
