"""README's "Without a cluster", line by line, in an environment of what the packages themselves declare.

The other tests have every extra; who installs with pip has what is declared, and nothing else. Versions are
those of the lock file: a release of somebody else's makes no test fail.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tests.docs.pages import ROOT, blocks
from tests.server.harness import Server

OURS = ("longshore", "longshore-optimizer", "longshore-server")
SAMPLES = 5


class Environment:
    """A fresh virtual environment, its programs run in the folder that it lies in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "environment" / "bin"
        # Nothing that leads to the packages of the environment that runs the tests.
        self.variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self.variables["PATH"] = f"{self.programs}:{self.variables['PATH']}"
        # As in the Makefile: an installed uv, else the project's own.
        self.uv = shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
        self._do([self.uv, "venv", "--quiet", "--python", sys.executable, str(self.programs.parent)], folder)

    def install(self, *paths: str) -> None:
        """Do what `pip install` does with these paths in the repository, with wheels of uv's cache."""
        known = self.folder / "constraints.txt"
        export = (
            "export",
            "--frozen",
            "--all-packages",
            "--all-extras",
            "--no-hashes",
            "--no-emit-workspace",
        )
        self._do([self.uv, *export, "--quiet", f"--output-file={known}"], ROOT)
        # The cached wheel of a folder is taken unless it is said that the sources may have changed.
        fresh = [f"--refresh-package={name}" for name in OURS]
        python = f"--python={self.programs / 'python'}"
        self._do(
            [self.uv, "pip", "install", "--quiet", python, f"--constraints={known}", *fresh, *paths], ROOT
        )

    def run(self, *command: str) -> None:
        self._do([str(self.programs / command[0]), *command[1:]], self.folder)

    def _do(self, command: list[str], folder: Path) -> None:
        done = subprocess.run(
            command, cwd=folder, env=self.variables, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout}{done.stderr}"


class Installed(Server):
    """The server as README starts it, on free ports."""

    def __init__(self, environment: Environment, *line: str) -> None:
        super().__init__(environment.folder)
        self._environment = environment.variables
        ports = {"8080": str(self.http_port), "8081": str(self.grpc_port)}
        place = {"served": str(environment.folder / "served")}
        words = [(ports | place).get(word, word) for word in line[1:]]
        self._command = [str(environment.programs / line[0]), *words, "--host", "127.0.0.1"]


def test_readmes_lines_work_with_pip_install_alone(tmp_path: Path) -> None:
    (block,) = (b for b in blocks("sh") if b.page == "README.md" and "pip install" in b.text)
    lines = [shlex.split(line) for line in block.text.replace("\\\n", " ").splitlines()]
    install, train, optimize, serve = lines
    environment = Environment(tmp_path)
    assert install[:2] == ["pip", "install"]
    environment.install(*install[2:])
    environment.run(train[0], str(ROOT / train[1]), *train[2:])
    environment.run(*optimize, "--trials", "1", "--time", "60s")

    with np.load(tmp_path / "digits" / "evaluation.npz") as data:
        x = data["X"][:SAMPLES]
    session = ort.InferenceSession(
        str(tmp_path / "served" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    wanted = dict(zip(names, session.run(names, {"X": x}), strict=True))
    question = {"name": "X", "datatype": "FP32", "shape": x.shape, "data": x.ravel().tolist()}
    with Installed(environment, *serve) as server:
        status, _, body = server.request(
            "POST", "/v2/models/digits/infer", json.dumps({"inputs": [question]}).encode()
        )
    assert status == 200, body
    given = {o["name"]: np.reshape(o["data"], o["shape"]) for o in json.loads(body)["outputs"]}
    assert given.keys() == wanted.keys()
    for name in names:
        np.testing.assert_allclose(given[name], wanted[name], atol=1e-3)
