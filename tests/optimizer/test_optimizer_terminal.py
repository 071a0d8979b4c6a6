"""The table in the terminal: `longshore optimize` on a pseudo-terminal, as a person watches it."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.optimizer.conftest import labelled, mlp

LONGSHORE = str(Path(sys.executable).parent / "longshore")
REDRAWN = re.compile(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*")
"""Back to the first line of what was drawn, clearing each (ECMA-48: CUU, EL): the next picture lies there."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True)
class Watched:
    """What stood on standard output, a pipe, and what was written to the terminal at standard error."""

    stdout: str
    terminal: str

    @property
    def pictures(self) -> list[str]:
        return [CONTROL.sub("", picture) for picture in REDRAWN.split(self.terminal)]


def watched(*arguments: object) -> Watched:
    """Run `longshore optimize` with a terminal of 160 columns at standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 160, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    seen: list[bytes] = []

    def read() -> None:
        # At the end Linux gives EIO, other systems nothing.
        try:
            while data := os.read(ours, 1 << 16):
                seen.append(data)
        except OSError:
            return

    with subprocess.Popen(
        [LONGSHORE, "optimize", *map(str, arguments)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=environment | {"TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            stdout, _ = process.communicate(timeout=240)
        finally:
            process.kill()
        reader.join()
    os.close(ours)
    shown = b"".join(seen).decode()
    assert process.returncode == 0, shown
    return Watched(stdout, shown)


@pytest.fixture
def arguments(tmp_path: Path) -> list[object]:
    """A tiny model and one candidate, which is smaller."""
    model = mlp(tmp_path / "model.onnx", hidden=2048)
    x = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    data = labelled(tmp_path / "data.npz", model, {"x": x})
    return [
        model, "--evaluation", data, "--calibration", data, "--max-drop", 0.2, "--goal", "size",
        "--technique", "dynamic-int8", "--trials", 1, "--time", "60s", "--max-p95", "10s",
        "--out", tmp_path / "out",
    ]  # fmt: skip


def test_the_table_is_drawn_live(arguments: list[object]) -> None:
    run = watched(*arguments)
    pictures = run.pictures
    assert len(pictures) > 3, "drawn again and again in the same place"
    assert "dynamic-int8" not in pictures[0]
    # A row stands while its candidate is worked on, before it is known what becomes of it.
    rows = [re.findall(r"^original .*$", picture, re.MULTILINE) for picture in pictures]
    assert any(found and found[0].rstrip().endswith("...") for found in rows)
    assert any("Candidates  dynamic-int8" in picture for picture in pictures), "the head tells what is done"

    (chosen,) = re.findall(r"^dynamic-int8 .*$", pictures[-1], re.MULTILINE)
    assert "Chosen" in chosen
    (original,) = re.findall(r"^original .*$", pictures[-1], re.MULTILINE)
    assert "Chosen" not in original
    assert not CONTROL.search(run.stdout), "a pipe gets the result without control characters"
    assert "chosen: dynamic-int8" in run.stdout


def test_with_json_nothing_is_drawn(arguments: list[object]) -> None:
    run = watched(*arguments, "--json")
    assert json.loads(run.stdout)["chosen"] == "dynamic-int8"
    assert "original" not in run.terminal
    assert not REDRAWN.search(run.terminal)
