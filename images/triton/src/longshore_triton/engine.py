"""Whether the TensorRT engine that the optimizer left beside the ONNX model can be served in this pod.

An engine runs with the GPU, driver and TensorRT release alone that it was built with; the optimizer wrote
them down in `exports/TensorRT/engine.json`. Where one differs the ONNX model is served.
"""

import hashlib
import json
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path("exports") / "TensorRT"
DESCRIPTION = "engine.json"
PLAN = "model.plan"
BACKEND = "tensorrt"

_MOST_BYTES = 1 << 16
_MOST_BATCH = 1 << 16
_SECONDS = 30.0
_QUERY = ("--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
_ROW = re.compile(r"^\s*([^,]+?)\s*,\s*(\d+\.\d+)\s*,\s*([\d.]+)\s*$")
_SLICE = re.compile(r"^\s+MIG\s+(\S+)\s+Device\s+\d+:", re.MULTILINE)
_LIBRARY = re.compile(rb"libnvinfer\.so\.\d+")
_ASK_RELEASE = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).getInferLibVersion())"
_TEXTS = ("gpu", "computeCapability", "driver", "tensorrt", "platform", "plan")


@dataclass(frozen=True)
class Fit:
    """What an engine runs with, or what a pod has.

    Attributes:
        gpu: name, with the profile of a MIG slice.
        compute_capability: such as 8.6.
        driver: version of the GPU's driver.
        tensorrt: release, such as 10.9.0.
        platform: such as linux_x86_64.
    """

    gpu: str
    compute_capability: str
    driver: str
    tensorrt: str
    platform: str


@dataclass(frozen=True)
class Engine:
    """An engine as it is described: what it runs with, the digest of the plan, most rows at once."""

    fit: Fit
    plan: str
    most: int


Look = Callable[[], Fit | str]
"""Tells what this pod has, or why it cannot be told."""


def choose(artifact: Path, has: frozenset[str], look: Look) -> Engine | str:
    """Decide whether the artifact's engine can be served; gives why not, and what to do.

    Args:
        artifact: the directory with `model.onnx` and `exports`.
        has: backends of the image.
        look: asked only where everything else fits.
    """
    directory = artifact / DIRECTORY
    if not _is_there(directory / DESCRIPTION):
        return (
            "the artifact has none: add TensorRT to optimize.exports, and an optimizer with trtexec and a GPU"
        )
    found = read(directory, artifact)
    if isinstance(found, str):
        return f"{found}: optimize the model again"
    if BACKEND not in has:
        return (
            f"this image has no backend {BACKEND} (it has {', '.join(sorted(has)) or 'none'}): name one that "
            "has it in serving.triton.image"
        )
    here = look()
    if isinstance(here, str):
        return here
    if differences := differing(found.fit, here):
        return f"{differences}: it must be built again for this node"
    return _checked(directory, found)


def differing(built: Fit, here: Fit) -> str:
    """Tell what an engine was built with that is not here; empty where all is equal."""
    labels = {
        "gpu": "GPU",
        "compute_capability": "compute capability",
        "driver": "driver",
        "tensorrt": "TensorRT",
        "platform": "platform",
    }
    return ", ".join(
        f"{label} {getattr(here, name)} here and {getattr(built, name)} in the engine"
        for name, label in labels.items()
        if getattr(here, name) != getattr(built, name)
    )


def read(directory: Path, artifact: Path) -> Engine | str:
    """Read the description of an engine, which is hostile input; gives what is wrong with it."""
    file = directory / DESCRIPTION
    try:
        for path in (file, directory / PLAN):
            if not path.resolve().is_relative_to(artifact.resolve()):
                return f"{path.name} of the engine leads out of the artifact"
            if not stat.S_ISREG(path.stat().st_mode):
                return f"{path.name} of the engine is no file"
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            return f"{DESCRIPTION} is larger than {_MOST_BYTES} bytes"
        raw = json.loads(text)
    except OSError as error:
        return f"{DESCRIPTION} or {PLAN} cannot be read ({error.strerror or error})"
    except (ValueError, RecursionError) as error:
        return f"{DESCRIPTION} is no JSON ({type(error).__name__})"
    if not isinstance(raw, dict):
        return f"{DESCRIPTION} is no JSON object"
    for name in _TEXTS:
        if not isinstance(raw.get(name), str) or not raw[name].isprintable() or len(raw[name]) > 256:
            return f"{DESCRIPTION} has no {name}, or one that is no text"
    most = raw.get("maxBatch")
    if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= _MOST_BATCH:
        return f"maxBatch of {DESCRIPTION} is no number from 1 to {_MOST_BATCH}"
    fit = Fit(raw["gpu"], raw["computeCapability"], raw["driver"], raw["tensorrt"], raw["platform"])
    return Engine(fit, raw["plan"], most)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _checked(directory: Path, engine: Engine) -> Engine | str:
    try:
        with (directory / PLAN).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{PLAN} cannot be read ({error.strerror or error}): fetch the artifact again"
    if digest != engine.plan:
        return f"{PLAN} has not the digest that {DESCRIPTION} says: optimize the model again"
    return engine


def look(backends: Path) -> Fit | str:
    """Ask `nvidia-smi` for the GPU and the backend's library for its release.

    Args:
        backends: the image's directory of backends.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no GPU is seen here (there is no nvidia-smi): give the pod one"
    told = _ask(program, *_QUERY)
    rows = {row.groups() for row in map(_ROW.match, told.splitlines()) if row is not None}
    if not rows:
        words = " ".join(told.split())[:200] or "nothing"
        return f"no GPU is seen here (nvidia-smi says: {words}): give the pod one"
    if len(rows) > 1:
        return "the GPUs of this pod differ: ask for nodes with one type"
    ((name, capability, driver),) = rows
    part = _SLICE.search(_ask(program, "-L"))
    number = _ask(sys.executable, "-c", _ASK_RELEASE, _linked(backends / BACKEND)).strip()
    if not number.isascii() or not number.isdigit() or len(number) > 7:
        return (
            f"the release of TensorRT cannot be told ({number[-200:] or 'nothing was said'}): see the image"
        )
    return Fit(
        gpu=f"{name} MIG {part[1]}" if part else name,
        compute_capability=capability,
        driver=driver,
        tensorrt=release(int(number)),
        platform=f"{sys.platform}_{platform.machine()}",
    )


def release(number: int) -> str:
    """Write getInferLibVersion() as a release: major * 10,000 + minor * 100 + patch, to 9 major * 1,000.

    Source: NvInferRuntimeBase.h of TensorRT 8.6 and 10.
    """
    if number >= 100_000:
        return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"


def _linked(directory: Path) -> str:
    """Name the library of TensorRT that the backend is linked with."""
    for file in sorted(directory.glob("*.so")):
        try:
            found = _LIBRARY.search(file.read_bytes())
        except OSError:
            continue
        if found is not None:
            return found[0].decode()
    return "libnvinfer.so"


def _ask(program: str, *arguments: str) -> str:
    """Run a program that may hang or crash; gives what it said."""
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout[: 1 << 16].decode(errors="replace")
