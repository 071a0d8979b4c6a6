"""`make bench-scaling`: one row for every target, the missed ones included."""

import argparse
import os
import sys

from bench.common import Report, Row, versions, written
from bench.scaling import activator, cluster, simulated, tick

_PARTS = {
    "cluster": cluster.rows,
    "simulated": simulated.rows,
    "activator": activator.rows,
    "tick": tick.rows,
}


def main() -> int:
    """Run all parts, or one, and write the results."""
    parser = argparse.ArgumentParser(prog="bench.scaling", description=__doc__)
    parser.add_argument(
        "--only", choices=sorted(_PARTS), help="run one part; the others' rows stay as they were measured"
    )
    only = parser.parse_args().only
    before = written("scaling") if only else {}
    parts: dict[str, tuple[Row, ...]] = {}
    for name, measure in _PARTS.items():
        parts[name] = measure() if only in (None, name) else before.get(name, ())
    report = Report(
        "scaling",
        tuple(row for rows in parts.values() for row in rows),
        {
            "loadAverage": [round(value, 2) for value in os.getloadavg()],
            "parts": {name: len(rows) for name, rows in parts.items()},
            "versions": versions(["longshore", "longshore-activator", "uvloop", "aiohttp"]),
        },
        (
            "Rows of steps, noise, traces and outages come from the simulator: the planner as it is, pods "
            "that batch, queue and start like real ones. The objective is 95 % of requests within 500 ms, "
            "judged every 10 s. HPA means autoscaling/v2 with its defaults on CPU at 80 %.",
            "Figures of activator and tick are timed: a load average above the number of CPUs means that "
            "others ran beside them, and then only those per processor time compare.",
            "Activator figures are medians on loopback with the activator on one core, source, sink and "
            "clients on the other.",
        ),
    )
    report.print()
    report.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
