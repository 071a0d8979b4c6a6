"""Trials as TensorBoard events: one run a candidate, written as the search goes on.

Numbers are written as scalars when they become known. What makes a run a row of the HParams page is written
once, at the end: TensorBoard keeps the first verdict that it reads.
"""

import hashlib
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path

from longshore.artifact.manifest import Verdict

from longshore_optimizer.decide import Trial
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.sink import disk_problem
from longshore_optimizer.progress import Reporter
from longshore_optimizer.result import candidate

SCALARS = ("metric", "drop", "drop_upper", "p50_ms", "p95_ms", "cpu_ms", "size_bytes")
"""What a run has as far as it is known and finite, as in the manifest: `_ms` in ms, `_bytes` in bytes."""

UNDECIDED = "Undecided"
"""Stands for the verdict where the search ended before there was one."""

_FILE = "events.out.tfevents.{seconds:010d}.longshore"
_FILES = "events.out.tfevents.*.longshore"
_NAME_LIMIT = 100
_TEXT_LIMIT = 200
_LARGEST = 3.4e38
"""Scalars are kept in single precision."""


@contextmanager
def recorded(reporter: Reporter, directory: Path | None) -> Iterator[Reporter]:
    """Give a reporter that also writes what it is told of trials to `directory`; without one, `reporter`.

    Raises:
        Problem: InvalidRequest or DiskFull, where the directory cannot be written.
    """
    if directory is None:
        yield reporter
        return
    events = Events(directory)

    def told(trial: Trial) -> None:
        events.trial(trial)
        reporter.trial(trial)

    try:
        yield Reporter(reporter.on_progress, told)
    finally:
        events.close()


class Events:
    """Writes the runs of one search. A failure to write ends the writing, never the search."""

    def __init__(self, directory: Path) -> None:
        """Make `directory`, and remove the events of the search before from it; other files stay.

        Raises:
            Problem: InvalidRequest or DiskFull, where the directory cannot be written.
        """
        from longshore_optimizer import event_records

        self._records = event_records
        self._directory = directory
        self._started = time.time()
        self._runs: dict[str, _Run] = {}
        self._broken = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for old in list(directory.glob(f"*/{_FILES}")):
                old.unlink()
                with suppress(OSError):  # it holds files of somebody else
                    old.parent.rmdir()
            with tempfile.TemporaryFile(dir=directory) as probe:
                probe.write(b"\0")
        except OSError as error:
            raise _problem(error, directory) from error

    def trial(self, trial: Trial) -> None:
        """Write the numbers of a trial that are new or changed."""
        name = trial.proposal.name
        run = self._runs.get(name)
        if run is None:
            file = _FILE.format(seconds=int(self._started))
            run = self._runs[name] = _Run(self._directory / run_name(name) / file)
        run.trial = trial
        records = []
        for tag, value in numbers(trial).items():
            points, last = run.points.get(tag, (0, None))
            if value != last:
                records.append(self._records.scalar(tag, value, points))
                run.points[tag] = (points + 1, value)
        self._append(run.file, b"".join(records))

    def close(self) -> None:
        """Write each run's row of the HParams page, as it was told of last."""
        for run in self._runs.values():
            if run.trial is not None:
                ended = self._records.Ended.SUCCESS
                if run.trial.verdict is None:
                    ended = self._records.Ended.UNKNOWN
                elif run.trial.verdict is Verdict.FAILED:
                    ended = self._records.Ended.FAILURE
                self._append(
                    run.file, self._records.session(hyperparameters(run.trial), self._started, ended)
                )

    def _append(self, path: Path, records: bytes) -> None:
        if self._broken or not records:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(records if file.tell() else self._records.opening() + records)
        except OSError as error:
            # What follows a record that was cut short cannot be read.
            self._broken = True
            sys.stderr.write(
                f"TensorBoard's events cannot be written to {self._directory} any longer: {error}\n"
            )


class _Run:
    """One candidate's file; of each scalar how many points it has, and the last one's value."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.trial: Trial | None = None
        self.points: dict[str, tuple[int, float | None]] = {}


def run_name(name: str) -> str:
    """Give the name of a candidate's directory: its own where every file system takes that."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:_NAME_LIMIT]
    if plain and plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def numbers(trial: Trial) -> dict[str, float]:
    """Give what is known of a trial and can be drawn, by the names of `SCALARS`."""
    row = candidate(trial)
    known = {tag: _finite(getattr(row, tag)) for tag in SCALARS}
    return {tag: value for tag, value in known.items() if value is not None and abs(value) <= _LARGEST}


def hyperparameters(trial: Trial) -> dict[str, str | float | bool]:
    """Give technique, verdict and parameters; of nested ones, the names are joined by dots."""
    row = candidate(trial)
    verdict = UNDECIDED if trial.verdict is None else trial.verdict.value
    return dict(_flat("", row.parameters)) | {"technique": row.technique, "verdict": verdict}


def _flat(name: str, value: object) -> Iterator[tuple[str, str | float | bool]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, bool):
        yield _text(name), value
    elif isinstance(value, list | tuple):
        yield _text(name), _text(", ".join(map(str, value)))
    elif value is not None:
        number = _finite(value)
        yield _text(name), _text(str(value)) if number is None else number


def _finite(value: object) -> float | None:
    """Give a real number as a float; None for infinity, NaN and everything else."""
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(text: str) -> str:
    """Bound a text, and replace what UTF-8 cannot say."""
    return text[:_TEXT_LIMIT].encode(errors="replace").decode()


def _problem(error: OSError, directory: Path) -> Problem:
    problem = disk_problem(error, f"TensorBoard's events to {directory}")
    if problem.reason is Reason.DISK_FULL:
        return problem
    return Problem(
        Reason.INVALID_REQUEST,
        f"TensorBoard's events cannot be written to {directory} ({error.strerror or error}): name a "
        "directory that can be written",
    )
