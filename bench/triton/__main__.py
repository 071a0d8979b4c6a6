"""`make bench-triton`: what Longshore adds to a bare Triton, and how good its configuration is."""

import argparse
import tempfile
from pathlib import Path

from bench.common import Report
from bench.triton import grid, scenarios, startup
from tests.tritonhome import ROOT

SUMMARY = (
    "Triton is assembled from PyPI (nvidia-pytriton with a Python-based ONNX Runtime backend). Start: local "
    "processes, warm page cache. Batching: server on one core, load on another, binary requests over HTTP.",
)


def main() -> None:
    """Measure and write the results; without a cluster (`--local`) the scenarios stand as not measured."""
    parser = argparse.ArgumentParser(description="Measure Triton as a runtime.")
    parser.add_argument("--local", action="store_true", help="leave out what needs the cluster")
    local = parser.parse_args().local
    with tempfile.TemporaryDirectory() as folder:
        measured = (*startup.rows(Path(folder)), *grid.rows(Path(folder)))
    report = Report(
        name="triton",
        rows=(*measured, *(scenarios.unmeasured() if local else scenarios.rows())),
        environment={"triton": _requirements()},
        summary=SUMMARY,
    )
    report.write()
    report.print()


def _requirements() -> dict[str, str]:
    lines = (ROOT / "images/triton/requirements.txt").read_text().splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name: version for name, _, version in pairs}


if __name__ == "__main__":
    main()
