"""A Triton whose backend `tensorrt` is a stand-in: it runs the engines of tests/optimizer/tensorrt_tools.py.

With it come `nvidia-smi` and a libnvinfer that tells its release as the real one does.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.optimizer import tensorrt_tools
from tests.tritonhome import triton_home

_BACKEND = f"""
import pathlib
import numpy, onnxruntime
import triton_python_backend_utils as utils

HEADER = {tensorrt_tools.HEADER!r}


class TritonPythonModel:
    def initialize(self, args):
        plan = pathlib.Path(args["model_repository"], args["model_version"], "model.plan").read_bytes()
        if not plan.startswith(HEADER):
            raise utils.TritonModelException(
                "unable to create TensorRT engine: Error Code 1: Serialization (Version tag does not match)"
            )
        self._session = onnxruntime.InferenceSession(
            plan[len(HEADER):], providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        answers = []
        for request in requests:
            feeds = {{t.name(): t.as_numpy() for t in request.inputs()}}
            values = self._session.run(None, feeds)
            names = [o.name for o in self._session.get_outputs()]
            answers.append(utils.InferenceResponse([utils.Tensor(n, v) for n, v in zip(names, values)]))
        return answers
"""


@dataclass(frozen=True)
class Home:
    """Where it lies, and the environment that its programs need."""

    path: Path
    environment: dict[str, str]


def make(directory: Path, number: int = 100900) -> Home:
    """Lay it out; `number` is the release as getInferLibVersion tells it."""
    real = triton_home().home
    home = directory / "home"
    (home / "backends" / "tensorrt").mkdir(parents=True)
    for name in ("bin", "caches", "preload", "backends/python", "backends/onnxruntime"):
        (home / name).symlink_to(real / name)
    (home / "backends" / "tensorrt" / "model.py").write_text(_BACKEND)
    shutil.copy(real / "backends" / "python" / "libtriton_python.so", home / "backends" / "tensorrt")
    tensorrt_tools.nvidia_smi(directory / "bin")
    libraries = directory / "lib"
    libraries.mkdir()
    library(libraries, number)
    # Triton's own libraries are found by places relative to its backends otherwise.
    wheel = real.resolve().parents[1] / "nvidia_pytriton.libs"
    python = triton_home().python.parent
    return Home(
        home,
        {
            "PATH": f"{directory / 'bin'}:{python}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{libraries}:{wheel}",
        },
    )


def library(directory: Path, number: int) -> None:
    """Compile libnvinfer.so with the one function that is asked."""
    source = directory / "nvinfer.c"
    source.write_text(f"int getInferLibVersion(void) {{ return {number}; }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", directory / "libnvinfer.so", source], check=True)
