"""Half a minute of fuzzing in all; the bench does ten."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

SECONDS = 10


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("target", ["http", "http2", "infer"])
def test_no_input_crashes_hangs_or_fills_the_memory(target: str) -> None:
    fuzz = [sys.executable, "-m", "tests.server.fuzz", target, "--seconds", str(SECONDS)]
    # A program inherits the peak memory of the process that starts it, and libFuzzer looks at the peak: the
    # shell between them keeps what these tests have used out of it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *fuzz]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
