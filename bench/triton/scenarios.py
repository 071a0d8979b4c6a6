"""The scenarios of the real cluster on both runtimes: the runtime is the only line that changes."""

import os
import re
import subprocess
import sys

from bench.common import Row
from tests.tritonhome import ROOT

FOLDER = ROOT / "e2e/scenarios"
OTHERS = {"test_images.py"}
"""What no runtime takes part in: how images come to a node."""

DEADLINE = 3600
RUNTIMES = ("OnnxRuntime", "Triton")
_BESIDE = ("-p", "no:cacheprovider", "-n", "3", "--dist", "loadfile", "-m", "cluster")
"""Three files at once, each with an operator and a namespace of its own."""


def rows() -> tuple[Row, ...]:
    """Run every file of scenarios once a runtime; a scenario that does not pass counts as failed."""
    files = sorted(str(f.relative_to(ROOT)) for f in FOLDER.glob("test_*.py") if f.name not in OTHERS)
    for step in (["up"], ["images"], ["images", "triton", "traefik"]):
        subprocess.run(
            [sys.executable, "-m", "e2e.cluster", *step],
            cwd=ROOT,
            timeout=DEADLINE,
            check=True,
            stdout=sys.stderr,
        )
    found = []
    for runtime in RUNTIMES:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", *_BESIDE, *files],
            cwd=ROOT,
            env={**os.environ, "RUNTIME": runtime, "LONGSHORE_E2E_AS_IT_IS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        print(done.stdout, file=sys.stderr, flush=True)
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
        bad = counts.get("failed", 0) + counts.get("error", 0)
        names = re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)
        total = f"of {bad + counts.get('passed', 0)} scenarios"
        found.append(_row(runtime, bad if counts else None, total, ", ".join(names)))
    return tuple(found)


def _row(runtime: str, failed: int | None, unit: str, note: str) -> Row:
    return Row(f"scenarios that fail, runtime {runtime}", failed, unit, "==", 0, note=note)
