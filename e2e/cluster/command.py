"""Running other programs: with a deadline, and with their own message in the error."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.cluster.errors import ClusterError

_MESSAGE_CHARACTERS = 2000


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    seconds: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program and return its standard output.

    Raises ClusterError with its standard error when it fails, is missing, or takes longer than `seconds`.
    """
    words = [str(word) for word in command]
    shown = " ".join(words)[:_MESSAGE_CHARACTERS]
    try:
        answer = subprocess.run(
            words,
            check=False,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=env,
            cwd=cwd,
        )
    except FileNotFoundError:
        raise ClusterError(
            f"`{words[0]}` is not installed.\n"
            "  next step: `python -m e2e.cluster host` names what this machine lacks and installs it as root"
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"`{shown}` did not end in {seconds:.0f} s.\n  next step: run it by hand"
        ) from None
    if answer.returncode:
        message = (answer.stderr.strip() or answer.stdout.strip())[-_MESSAGE_CHARACTERS:]
        raise ClusterError(f"`{shown}` failed with exit code {answer.returncode}: {message}")
    return answer.stdout


def succeeds(command: Sequence[str | Path], *, seconds: float = 30) -> bool:
    """Whether a program exists, ends within `seconds` and says it succeeded."""
    try:
        run(command, seconds=seconds)
    except ClusterError:
        return False
    return True
