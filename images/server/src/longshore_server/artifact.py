"""Finds the model in what `--model` names and proves that loading it opens no file outside its directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from longshore_server.errors import ExitCode, StartupError
from longshore_server.onnxfile import ExternalData, NotOnnxError, external_data

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
CASCADE_FILE = "cascade.json"
SAMPLES_FILE = "samples.jsonl"
_MANIFEST_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class CascadeFile:
    """A cascade: `small` answers; rows whose confidence is under `threshold` go to `large`.

    `output` names the output whose highest value along its last axis is the confidence. When `softmax` is set
    that output holds logits, and the confidence is the highest softmax probability.
    """

    small: Path
    large: Path
    output: str
    threshold: float
    softmax: bool


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is served: one ONNX file, or a cascade of two.

    `chosen` is the optimizer's candidate, if known; `samples` the requests that it recorded, if it did;
    `timed_threads` are those that it timed the original with, 0 if unknown.
    """

    model: Path
    cascade: CascadeFile | None = None
    chosen: str = ""
    samples: Path | None = None
    timed_threads: int = 0

    @property
    def files(self) -> tuple[Path, ...]:
        """The ONNX files that will be loaded."""
        return (self.cascade.small, self.cascade.large) if self.cascade else (self.model,)


def locate(path: Path) -> Artifact:
    """Find and check the model. Raises `StartupError` with a line that says what is wrong with it."""
    if not path.exists():
        raise StartupError(
            ExitCode.NO_MODEL, f"no model at {path}: mount the model directory there or fix --model"
        )
    if path.is_file():
        artifact = Artifact(path)
    elif (path / CASCADE_FILE).is_file():
        cascade = _read_cascade(path)
        artifact = Artifact(cascade.small, cascade, samples=_samples(path))
    else:
        chosen, timed_threads = _of_manifest(path)
        artifact = Artifact(_only_model(path), None, chosen, _samples(path), timed_threads)
    for file in artifact.files:
        check(file)
    return artifact


def check(file: Path) -> None:
    """Raise `StartupError` unless `file` is an ONNX model whose external data lies inside its directory."""
    try:
        references = external_data(file)
    except NotOnnxError as error:
        raise StartupError(
            ExitCode.BAD_MODEL, f"{file} is not an ONNX model: {error}; export or fetch the model again"
        ) from None
    except OSError as error:
        raise StartupError(
            ExitCode.NO_MODEL, f"cannot read {file}: {error.strerror}; check its permissions"
        ) from None
    home = file.resolve().parent
    # A mounted directory may itself be reached through symbolic links (as Kubernetes' projected volumes are):
    # what counts is that the data lies beside the model once every link is followed.
    for reference in references:
        _check_reference(file, home, reference)


def _check_reference(file: Path, home: Path, reference: ExternalData) -> None:
    location = reference.location
    if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise _escapes(file, location)
    target = (file.parent / location).resolve()
    if not target.is_relative_to(home):
        raise _escapes(file, location)
    try:
        size = target.stat().st_size if target.is_file() else None
    except OSError:
        size = None
    if size is None:
        raise StartupError(
            ExitCode.BAD_MODEL,
            f"{file} keeps tensors in {location}, which is missing: copy that file beside the model",
        )
    end = reference.offset + (reference.length or 0)
    if reference.offset < 0 or (reference.length or 0) < 0 or end > size:
        raise StartupError(
            ExitCode.BAD_MODEL,
            f"{file} wants bytes up to {end} of {location}, which has {size}: truncated; fetch it again",
        )


def _escapes(file: Path, location: str) -> StartupError:
    return StartupError(
        ExitCode.BAD_MODEL,
        f"{file} has external data at {location!r}, outside its directory, which is refused: "
        "save the model with its data files beside it",
    )


def _only_model(directory: Path) -> Path:
    model = directory / MODEL_FILE
    if model.is_file():
        return model
    others = sorted(directory.glob("*.onnx"))
    if len(others) == 1:
        return others[0]
    if others:
        names = ", ".join(other.name for other in others[:5])
        raise StartupError(
            ExitCode.NO_MODEL,
            f"{directory} has several models ({names}) and no {MODEL_FILE}: point --model at one of them",
        )
    try:
        held = ", ".join(sorted(entry.name for entry in directory.iterdir())[:8]) or "nothing"
    except OSError as error:
        held = f"nothing that can be read ({error.strerror})"
    raise StartupError(
        ExitCode.NO_MODEL,
        f"{directory} has no {MODEL_FILE} (it holds {held}): point --model at the model's directory",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise ValueError("it is larger than 16 MiB")
        document = orjson.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        raise StartupError(
            ExitCode.BAD_MODEL, f"cannot read {path}: {error}; write the artifact again"
        ) from None
    return document


def _of_manifest(directory: Path) -> tuple[str, int]:
    file = directory / MANIFEST_FILE
    if not file.is_file():
        return "", 0
    manifest = _read_json(file)
    chosen, environment = manifest.get("chosen"), manifest.get("environment")
    threads = environment.get("threads") if isinstance(environment, dict) else None
    return chosen if isinstance(chosen, str) else "", threads if isinstance(threads, int) else 0


def _samples(directory: Path) -> Path | None:
    file = directory / SAMPLES_FILE
    return file if file.is_file() and file.resolve().is_relative_to(directory.resolve()) else None


def _read_cascade(directory: Path) -> CascadeFile:
    path = directory / CASCADE_FILE
    document = _read_json(path)

    def bad(what: str) -> StartupError:
        return StartupError(ExitCode.BAD_MODEL, f"{path}: {what}; write the artifact again")

    if unknown := document.keys() - {"small", "large", "output", "threshold", "softmax"}:
        raise bad(f"unknown field {sorted(unknown)[0]!r}")
    files = []
    for role in ("small", "large"):
        name = document.get(role)
        if not isinstance(name, str) or not name:
            raise bad(f"{role!r} must name the {role} model's file")
        file = directory / name
        if ".." in Path(name).parts or not file.resolve().is_relative_to(directory.resolve()):
            raise bad(f"{role!r} is {name!r}, outside the directory")
        if not file.is_file():
            raise bad(f"{role!r} is {name!r}, which is missing")
        files.append(file)
    threshold, output, softmax = (
        document.get("threshold"),
        document.get("output"),
        document.get("softmax", False),
    )
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise bad("'threshold' must be a confidence from 0 to 1")
    if not isinstance(output, str) or not output:
        raise bad("'output' must name the output that holds the class scores")
    if not isinstance(softmax, bool):
        raise bad("'softmax' must be true or false")
    return CascadeFile(files[0], files[1], output, float(threshold), softmax)
