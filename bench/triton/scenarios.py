"""The scenarios of the real cluster on both runtimes: the runtime is the only line that changes."""

import os
import re
import subprocess
import sys

from bench.common import Row
from tests.tritonhome import ROOT

FILES = ("test_one_apply.py", "test_rollout.py", "test_scaling.py", "test_triton.py")
DEADLINE = 3600
RUNTIMES = ("OnnxRuntime", "Triton")
_BESIDE = ("-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile")
"""Two files at once, each with an operator and a namespace of its own."""


def rows() -> tuple[Row, ...]:
    """Run what there is of `FILES` once a runtime; a scenario that does not pass counts as failed."""
    files = [f"e2e/scenarios/{name}" for name in FILES if (ROOT / "e2e/scenarios" / name).is_file()]
    found = []
    for runtime in RUNTIMES:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", *_BESIDE, *files],
            cwd=ROOT,
            env={**os.environ, "RUNTIME": runtime},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
        bad = counts.get("failed", 0) + counts.get("error", 0)
        names = re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)
        total = f"of {bad + counts.get('passed', 0)} scenarios"
        found.append(_row(runtime, bad if counts else None, total, ", ".join(names)))
    return tuple(found)


def _row(runtime: str, failed: int | None, unit: str, note: str) -> Row:
    return Row(f"scenarios that fail, runtime {runtime}", failed, unit, "==", 0, note=note)
