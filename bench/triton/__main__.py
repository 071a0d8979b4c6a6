"""`make bench-triton`: what Longshore adds to a bare Triton, and how good its configuration is."""

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
    """Measure everything and write the results."""
    with tempfile.TemporaryDirectory() as folder:
        local = (*startup.rows(Path(folder)), *grid.rows(Path(folder)))
    report = Report(
        name="triton",
        rows=(*local, *scenarios.rows()),
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
