"""`make bench-scaling`: one row for every target, the missed ones included."""

import argparse
import sys

from bench.common import Report, Row, versions
from bench.scaling import activator, cluster, simulated, tick

_PARTS = {
    "cluster": cluster.rows,
    "simulated": simulated.rows,
    "activator": activator.rows,
    "tick": tick.rows,
}


def main() -> int:
    """Run all parts and write the results, or one part and print it."""
    parser = argparse.ArgumentParser(prog="bench.scaling", description=__doc__)
    parser.add_argument("--only", choices=sorted(_PARTS), help="run one part and write nothing")
    only = parser.parse_args().only
    rows: list[Row] = []
    for name, measure in _PARTS.items():
        if only in (None, name):
            rows += measure()
    report = Report(
        "scaling",
        tuple(rows),
        {"versions": versions(["longshore", "longshore-activator", "uvloop", "aiohttp"])},
        (
            "Rows of steps, noise, traces and outages come from the simulator: the planner as it is, pods "
            "that batch, queue and start like real ones. The objective is 95 % of requests within 500 ms, "
            "judged every 10 s. HPA means autoscaling/v2 with its defaults on CPU at 80 %.",
            "Activator figures are medians on loopback with the activator on one core, source, sink and "
            "clients on the other.",
        ),
    )
    report.print()
    if only is None:
        report.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
