"""Runs in a worker process: applies one technique and checks that what came out is a whole model."""

from pathlib import Path

from longshore.api.optimize import TechniqueName
from longshore.artifact.base import Wire

from longshore_optimizer.measure.protocol import Request
from longshore_optimizer.techniques.base import Work

ADAPT = "Adapt"


class Built(Wire):
    """Answer to `build`; `flushed` counts the weights that were set to zero because they are subnormal."""

    done: bool = True
    flushed: int = 0


def build(request: Request) -> Built:
    """Apply the technique that the request names; raises whatever it raises."""
    from longshore_optimizer.techniques.adapt import adapt
    from longshore_optimizer.techniques.cascade_graph import join
    from longshore_optimizer.techniques.prepare import prepare
    from longshore_optimizer.techniques.registry import TECHNIQUES

    out = Path(request["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    calibration = Path(request["calibration"]) if request.get("calibration") else None
    work = Work(
        model=Path(request["model"]),
        out=out,
        parameters=dict(request.get("parameters") or {}),
        calibration=calibration,
        scratch=Path(request["scratch"]),
        seed=int(request.get("seed", 0)),
        threads=int(request.get("threads", 1)),
        training=Path(request["training"]) if request.get("training") else None,
        seconds=float(request.get("seconds", 600.0)),
        epochs=int(request.get("epochs", 1000)),
        teacher=Path(request["teacher"]) if request.get("teacher") else None,
        student=Path(request["student"]) if request.get("student") else None,
    )
    flushed = 0
    if request["technique"] == "Prepare":
        flushed = prepare(work)
    elif request["technique"] == ADAPT:
        adapt(work)
    elif request["technique"] == TechniqueName.CASCADE:
        join(work)
    else:
        TECHNIQUES[TechniqueName(request["technique"])].apply(work)
    if not out.is_file():
        raise RuntimeError("the technique wrote no model")
    return Built(flushed=flushed)
