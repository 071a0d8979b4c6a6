"""Half a minute of fuzzing in all; the bench does ten."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

SECONDS = 10


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("target", ["http", "http2", "infer"])
def test_no_input_crashes_hangs_or_fills_the_memory(target: str) -> None:
    command = [sys.executable, "-m", "tests.server.fuzz", target, "--seconds", str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
