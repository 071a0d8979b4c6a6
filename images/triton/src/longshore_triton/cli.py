"""`longshore-triton`: builds the model repository, then runs and watches `tritonserver`."""

import argparse
import json
import mmap
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from longshore_triton import backends, engine, flags, gathering, processes, readers, samples, wanted
from longshore_triton.closing import Closing
from longshore_triton.engine import Engine
from longshore_triton.errors import StartError
from longshore_triton.log import Log
from longshore_triton.repository import Repository, plan_repository
from longshore_triton.supervise import LOAD_FAILED, Supervisor

_MESSAGE_BYTES = 3500
"""The kubelet keeps 4,096 bytes of a termination message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end; gives the exit code."""
    options = _parser().parse_args(arguments)
    log = Log()
    try:
        return _serve(options, log)
    except StartError as error:
        log.say("error", str(error))
        _leave_word(options.termination_log, error)
        return 1


def _serve(options: argparse.Namespace, log: Log) -> int:
    asked = wanted.parse(os.environ.get(wanted.VARIABLE, "{}"))
    home: Path = options.home
    if removed := processes.remove_left_regions():
        log.say("info", f"removed {removed} regions of shared memory that an earlier server left")
    has, in_python = backends.installed(home / "backends"), backends.in_python(home / "backends")
    secret = secrets.token_urlsafe(32)
    closing, told = Closing(home, log), threading.Event()
    found = readers.prepare(asked, secret, _traces(options), log, told)
    samples.serve(options.model, asked, found, log)

    def serve(look: engine.Look) -> int:
        repository = plan_repository(options.model, asked, has, in_python, look)
        _write(repository, options.repository, log)
        command = _command(options, asked, repository.complete, secret)
        configs = [model.config for model in repository.models]
        if found is not None:
            found.start(asked.name, configs, recorded=samples.find(options.model) is not None)
        environment = gathering.environment(_environment(), home, configs)
        try:
            return Supervisor(command, environment, asked, closing, log, told).run()
        except StartError as error:
            if not repository.has_engine or error.reason != LOAD_FAILED or told.is_set():
                raise
            failed = f"Triton could not load it ({error}): have it built again with this image's TensorRT"
        return serve(lambda: failed)

    return serve(lambda: engine.look(home / "backends"))


def _write(repository: Repository, directory: Path, log: Log) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    repository.write(directory)
    for model in repository.models:
        log.say("info", f"configuration of {model.config.name}: {str(model.config).replace(chr(10), ' ')}")
        if isinstance(model.engine, Engine):
            log.say("info", f"the TensorRT engine for {model.engine.fit.gpu} is served")
        elif model.engine is not None:
            log.say("warning", f"the ONNX model is served, not a TensorRT engine: {model.engine}")


def _traces(options: argparse.Namespace) -> Path:
    repository: Path = options.repository
    return repository.with_name("traces")


def _command(options: argparse.Namespace, asked: wanted.Wanted, complete: bool, secret: str) -> list[str]:
    home: Path = options.home
    return flags.command(
        home,
        options.repository,
        asked,
        complete=complete,
        secret=secret,
        traces=_traces(options),
        limits_body=_knows(home / "bin" / "tritonserver", flags.BODY_LIMIT_FLAG),
    )


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != wanted.VARIABLE}
    return {**kept, "ORT_DISABLE_TELEMETRY": "1"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longshore-triton",
        description=f"Serve one model on Triton. What is asked stands in ${wanted.VARIABLE} as JSON.",
    )
    parser.add_argument("--model", type=Path, default=Path("/mnt/model"), help="the artifact, read only")
    parser.add_argument("--repository", type=Path, default=Path("/tmp/repository"), help="where to build it")  # noqa: S108
    parser.add_argument(
        "--home", type=Path, default=Path("/opt/tritonserver"), help="bin, backends and caches of Triton"
    )
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"))
    return parser


def _knows(program: Path, flag: str) -> bool:
    """Tell whether the server has a flag; asking it by --help would load all of its libraries."""
    try:
        with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(flag.encode()) >= 0
    except (OSError, ValueError):
        raise StartError(
            "ImageInvalid",
            f"there is no {program} in this image: name an image with Triton in serving.triton.image",
        ) from None


def _leave_word(path: Path, error: StartError) -> None:
    """Write the report that the operator turns into a condition."""
    message = str(error).encode()[:_MESSAGE_BYTES].decode(errors="ignore")
    report = {
        "version": 1,
        "outcome": "Failed",
        "reason": error.reason,
        "message": message,
        "retryable": False,
    }
    try:
        path.write_text(json.dumps(report, ensure_ascii=False))
    except OSError:
        sys.stderr.write(f"{path} cannot be written\n")
