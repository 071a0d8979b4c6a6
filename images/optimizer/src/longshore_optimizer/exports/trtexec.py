"""Runs `trtexec`, the builder and runner of engines that comes with TensorRT, in a process of its own.

Flags and files: samples/common/sampleOptions.cpp and sampleReporting.cpp of https://github.com/NVIDIA/TensorRT.
"""

import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BESIDE_TENSORRT = Path("/usr/src/tensorrt/bin/trtexec")
"""Where NVIDIA's packages put it, off the PATH."""

BUILD_SECONDS = 900.0
"""A builder that takes longer is ended."""

RUN_SECONDS = 60.0
"""The same for one run of an engine; most of it is the start of CUDA."""

_VERSION_SECONDS = 60.0
_LEAST_VERSION = (10, 0, 0)
"""Before, TensorRT has no int64, and trtexec would take such inputs for int32."""

_TAIL_BYTES = 1 << 16
_MOST_ANSWER_BYTES = 256 << 20
_BANNER = re.compile(r"\[TensorRT v(\d{4,7})\]")
_ERROR = re.compile(r"^\[[^\]]*\] \[E\] (.*)$", re.MULTILINE)
_NO_NUMBER = re.compile(r"(?<=[\[,] )(-?)(nan|inf)(?:\(\w*\))?(?=[ ,\]])")
_TIMED = ("--warmUp=200", "--duration=1", "--iterations=10")
_ONCE = ("--warmUp=0", "--duration=0", "--iterations=1")


class EngineError(Exception):
    """trtexec failed, hung, or wrote what cannot be read; the message has its last words."""


@dataclass(frozen=True)
class Trtexec:
    """The program, and the TensorRT release that it belongs to, as major, minor and patch."""

    program: Path
    version: tuple[int, int, int]

    @property
    def release(self) -> str:
        """The release as it is written, such as `10.9.0`."""
        return ".".join(map(str, self.version))

    def run(self, arguments: Sequence[str], directory: Path, seconds: float) -> None:
        """Run it in a directory.

        Raises:
            EngineError: it failed or was not done in time.
        """
        output, code = _output([str(self.program), *arguments], directory, seconds)
        if code is None:
            raise EngineError(f"trtexec was not done after {seconds:g} s: {_words(output)}")
        if code:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise EngineError(f"trtexec ended with {how}: {_words(output)}")

    def answer(
        self, plan: Path, feeds: Mapping[str, Array], free: Sequence[str], outputs: Mapping[str, str]
    ) -> list[Array]:
        """Run an engine once; gives its outputs in the order of `outputs` (name -> dtype).

        Args:
            plan: the engine.
            feeds: the inputs by name.
            free: names of the inputs whose shape the engine leaves open.
            outputs: what the model answers.

        Raises:
            EngineError: it cannot be run, or an output is missing or of another size.
        """
        told = self._told(plan, feeds, free, _ONCE, "exportOutput")
        found = {o["name"]: o for o in told}
        return [_tensor(name, found.get(name), dtype) for name, dtype in outputs.items()]

    def latencies(self, plan: Path, feeds: Mapping[str, Array], free: Sequence[str]) -> list[float]:
        """Run an engine for a second; gives the time of each run in ms, transfers to and from it included.

        Raises:
            EngineError: it cannot be run.
        """
        told = self._told(plan, feeds, free, _TIMED, "exportTimes")
        times = [float(t["latencyMs"]) for t in told if "latencyMs" in t]
        if not times:
            raise EngineError("trtexec timed no run of the engine")
        return times

    def _told(
        self, plan: Path, feeds: Mapping[str, Array], free: Sequence[str], flags: Sequence[str], export: str
    ) -> list[dict[str, Any]]:
        """Run an engine and read the file that a flag of this name makes."""
        with tempfile.TemporaryDirectory() as name:
            file = Path(name) / f"{export}.json"
            load = _load(plan, feeds, free, Path(name))
            self.run([*load, *flags, f"--{export}={file}"], Path(name), RUN_SECONDS)
            return _read(file)


def find() -> Path | None:
    """Give the program, None where this image has none."""
    found = shutil.which("trtexec")
    return Path(found) if found else BESIDE_TENSORRT if BESIDE_TENSORRT.is_file() else None


def opened(program: Path) -> Trtexec:
    """Ask the program for its release.

    Raises:
        EngineError: it does not tell, or is too old.
    """
    output, _ = _output([str(program), "--help"], Path.cwd(), _VERSION_SECONDS, head=True)
    banner = _BANNER.search(output)
    if banner is None:
        raise EngineError(f"{program} does not tell its release: {_words(output)}")
    found = Trtexec(program, release(int(banner[1])))
    if found.version < _LEAST_VERSION:
        raise EngineError(f"TensorRT {found.release} is here, and engines are built with 10 and newer")
    return found


def release(number: int) -> tuple[int, int, int]:
    """Take NV_TENSORRT_VERSION apart: major * 10,000 + minor * 100 + patch, up to release 9 major * 1,000.

    Source: NvInferRuntimeBase.h of TensorRT 8.6 and 10.
    """
    if number >= 100_000:
        return number // 10_000, number // 100 % 100, number % 100
    return number // 1000, number // 100 % 10, number % 100


def named(name: str) -> str:
    """A tensor's name as trtexec's lists take it: one with a colon stands in quotes."""
    return f"'{name}'" if ":" in name else name


def unnamable(names: Sequence[str]) -> str | None:
    """Give the first name that trtexec's lists cannot hold, None where there is none."""
    return next((n for n in names if not n or "," in n or "'" in n), None)


def _load(plan: Path, feeds: Mapping[str, Array], free: Sequence[str], directory: Path) -> list[str]:
    files = []
    for number, (name, value) in enumerate(feeds.items()):
        (directory / f"{number}.bin").write_bytes(np.ascontiguousarray(value).tobytes())
        files.append(f"{named(name)}:{directory / f'{number}.bin'}")
    shapes = ",".join(f"{named(n)}:{'x'.join(map(str, feeds[n].shape))}" for n in feeds if n in set(free))
    return [
        f"--loadEngine={plan}",
        f"--loadInputs={','.join(files)}",
        *([f"--shapes={shapes}"] if shapes else []),
    ]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        if file.stat().st_size > _MOST_ANSWER_BYTES:
            raise EngineError(f"the engine's answer is larger than {_MOST_ANSWER_BYTES >> 20} MiB as text")
        # What is no number stands there as C++ writes it.
        text = _NO_NUMBER.sub(
            lambda m: m[1] + ("NaN" if m[2] == "nan" else "Infinity"), file.read_text(errors="replace")
        ).replace("-NaN", "NaN")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"trtexec's {file.name} cannot be read: {error}") from None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise EngineError(f"trtexec's {file.name} is no list of objects")
    return found


def _tensor(name: str, entry: Mapping[str, Any] | None, dtype: str) -> Array:
    if entry is None:
        raise EngineError(f"the engine gives no output {name}")
    # Written as 1x3 or (1, 3).
    shape = [int(size) for size in re.findall(r"-?\d+", str(entry.get("dimensions", "")))]
    values = np.asarray(entry.get("values", []))
    if min(shape, default=0) < 0 or values.size != math.prod(shape):
        raise EngineError(f"the engine gives {values.size} values for {name} in the shape {shape}")
    return values.reshape(shape).astype(dtype)


def _output(
    command: Sequence[str], directory: Path, seconds: float, head: bool = False
) -> tuple[str, int | None]:
    """Run; gives the last (or first) words, and the exit code, None where it had to be ended."""
    with tempfile.TemporaryFile() as log:
        try:
            code: int | None = subprocess.run(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
        except OSError as error:
            raise EngineError(f"{command[0]} cannot be started: {error}") from None
        size = log.seek(0, 2)
        log.seek(0 if head else max(0, size - _TAIL_BYTES))
        return log.read(_TAIL_BYTES).decode(errors="replace"), code


def _words(output: str) -> str:
    """The last errors that it logged, else its last lines."""
    errors = [e.strip() for e in _ERROR.findall(output) if e.strip()]
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("&&&&")]
    return "; ".join(dict.fromkeys((errors or lines)[-3:]))[-300:] or "it said nothing"
