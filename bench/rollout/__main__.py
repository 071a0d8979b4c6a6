"""`make bench-rollout`: error probabilities, times to a decision, cost, and safety of rollouts.

`python -m bench.rollout cluster` measures the rows of the real cluster alone and keeps the others.
"""

import json
import sys
from typing import Any

from bench.common import RESULTS, Report, Row, versions
from bench.rollout import cluster, plan_level, simulated

SUMMARY = (
    "Traffic is simulated as Poisson requests with binomial errors, 20 requests a second with 10 % to the "
    "canary where nothing else is said, and looked at after every tick, which is the worst case of optional "
    "stopping; the arithmetic is the operator's own, over arrays.",
)


def main() -> None:
    """Measure and write the results."""
    measured = cluster.rows()
    kept, environment = _standing() if sys.argv[1:] == ["cluster"] else _simulated()
    names = {row.id for row in measured}
    report = Report(
        name="rollout",
        rows=(*(row for row in kept if row.id not in names), *measured),
        environment=environment,
        summary=SUMMARY,
    )
    report.write()
    report.print()


def _simulated() -> tuple[tuple[Row, ...], dict[str, Any]]:
    environment = {**simulated.environment(), "versions": versions(("numpy", "pydantic"))}
    return (*simulated.rows(), *plan_level.rows()), environment


def _standing() -> tuple[tuple[Row, ...], dict[str, Any]]:
    content = json.loads((RESULTS / "rollout.json").read_text())
    rows = tuple(
        Row(row["id"], row["value"], row["unit"], row["op"], row["target"], row.get("note", ""))
        for row in content["rows"]
    )
    kept = ("simulation", "versions")
    return rows, {name: content["environment"][name] for name in kept if name in content["environment"]}


if __name__ == "__main__":
    main()
