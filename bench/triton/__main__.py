"""`make bench-triton`: what Longshore adds to a bare Triton, and how good its configuration is."""

import argparse
import tempfile
from pathlib import Path

from bench.common import Report, Row, written
from bench.triton import grid, scenarios, startup
from tests.tritonhome import ROOT

PARTS = ("startup", "grid", "scenarios")
SUMMARY = (
    "Triton is assembled from PyPI (nvidia-pytriton with a Python-based ONNX Runtime backend). Start: local "
    "processes, warm page cache. Batching: server on one core, load on another, binary requests over HTTP; "
    "the generated configuration with what its pod loads into the server (gather.c), the grid without.",
)


def main() -> None:
    """Measure all parts, or one, and write the results."""
    parser = argparse.ArgumentParser(description="Measure Triton as a runtime.")
    parser.add_argument(
        "--only", choices=PARTS, help="measure one part; the others' rows stay as they were measured"
    )
    only = parser.parse_args().only
    before = written("triton") if only else {}
    parts: dict[str, tuple[Row, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in PARTS:
            parts[name] = _measure(name, Path(folder)) if only in (None, name) else before.get(name, ())
    report = Report(
        name="triton",
        rows=tuple(row for rows in parts.values() for row in rows),
        environment={"parts": {name: len(rows) for name, rows in parts.items()}, "triton": _requirements()},
        summary=SUMMARY,
    )
    report.write()
    report.print()


def _measure(part: str, folder: Path) -> tuple[Row, ...]:
    if part == "startup":
        return startup.rows(folder)
    return grid.rows(folder) if part == "grid" else scenarios.rows()


def _requirements() -> dict[str, str]:
    lines = (ROOT / "images/triton/requirements.txt").read_text().splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name: version for name, _, version in pairs}


if __name__ == "__main__":
    main()
