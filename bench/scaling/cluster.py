"""What only a real cluster can show. Figures are read from a file that a run on the cluster leaves."""

import json
from pathlib import Path

from bench.common import RESULTS, Op, Row

MEASURED = RESULTS / "scaling-cluster.json"
"""`{"<row id>": {"value": number, "note": text}}`; a row that is missing there was not measured."""

_WANTED: tuple[tuple[str, str, Op, float], ...] = (
    ("first-request-at-zero-p50", "s", "<=", 0.8),
    ("first-request-at-zero-p95", "s", "<=", 1.5),
    ("burst-200-at-zero-lost", "connections", "==", 0),
)


def rows(path: Path = MEASURED) -> tuple[Row, ...]:
    """Give the rows, without a value where the cluster was not measured."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return tuple(
        Row(name, found[name]["value"], unit, op, target, found[name].get("note", ""))
        if name in found
        else Row(name, None, unit, op, target, "needs the real cluster")
        for name, unit, op, target in _WANTED
    )
