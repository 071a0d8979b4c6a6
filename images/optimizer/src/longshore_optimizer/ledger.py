"""What was measured so far, kept where the death of the process does not reach it."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from longshore.artifact.base import Wire
from longshore.artifact.manifest import Verdict
from pydantic import Field, ValidationError

from longshore_optimizer.decide import Trial
from longshore_optimizer.errors import Problem
from longshore_optimizer.statistics import Drop
from longshore_optimizer.store.base import Store
from longshore_optimizer.techniques.base import Proposal

_LIMIT = 16 << 20


class Known(Wire):
    """One candidate's result; `model_sha256` is of the model that it was measured on, None for a refusal."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    size_bytes: int | None = None
    metric: float | None = None
    drop: float | None = None
    drop_upper: float | None = None
    verdict: Verdict | None = None
    reason: str = ""
    model_sha256: str | None = None

    def trial(self, proposal: Proposal) -> Trial:
        """Give the trial that it tells of; latencies are measured anew, as they belong to one run."""
        drop = (
            Drop(self.drop, self.drop_upper)
            if self.drop is not None and self.drop_upper is not None
            else None
        )
        return Trial(proposal, self.size_bytes, self.metric, drop, None, self.verdict, self.reason)


class _Content(Wire):
    key: str
    known: tuple[Known, ...]


def known_of(trial: Trial, model_sha256: str | None) -> Known | None:
    """Give what is worth keeping: what failed may have failed for the reason that ended the process."""
    if not (trial.alive or trial.verdict is Verdict.REFUSED):
        return None
    bounded = trial.drop is not None and trial.drop.upper < float("inf")
    if trial.alive and (model_sha256 is None or (trial.drop is not None and not bounded)):
        return None
    return Known(
        name=trial.proposal.name,
        parameters=trial.proposal.parameters,
        size_bytes=trial.size_bytes,
        metric=trial.metric,
        drop=trial.drop.estimate if trial.drop is not None and bounded else None,
        drop_upper=trial.drop.upper if trial.drop is not None and bounded else None,
        verdict=trial.verdict,
        reason=trial.reason,
        model_sha256=model_sha256 if trial.alive else None,
    )


class Place(Protocol):
    """Holds the ledger's text."""

    def load(self) -> bytes | None:
        """Give what was saved last."""
        ...

    def save(self, data: bytes) -> None:
        """Keep this in place of what was there, whole or not at all."""
        ...


class Ledger:
    """Results by candidate. Another key (data, settings, versions) starts an empty one.

    A place that cannot be read or written costs the resumption, never the search.
    """

    def __init__(self, place: Place, key: str) -> None:
        """Read what the place holds."""
        self._place = place
        self._key = key
        self._known: dict[str, Known] = {}
        try:
            data = place.load()
            content = _Content.model_validate_json(data) if data is not None else None
        except (OSError, Problem, ValidationError) as error:
            sys.stderr.write(f"what was measured before cannot be read, it is measured again: {error}\n")
            return
        if content is not None and content.key == key:
            self._known = {k.name: k for k in content.known}

    @property
    def known(self) -> Mapping[str, Known]:
        """Results by the candidates' names."""
        return self._known

    def find(self, proposal: Proposal) -> Known | None:
        """Give what is known of a candidate."""
        known = self._known.get(proposal.name)
        return known if known is not None and known.parameters == proposal.parameters else None

    def note(self, known: Known | None) -> None:
        """Keep a result."""
        if known is None or self._known.get(known.name) == known:
            return
        self._known[known.name] = known
        content = _Content(key=self._key, known=tuple(self._known.values()))
        try:
            self._place.save(content.model_dump_json(by_alias=True).encode())
        except (OSError, Problem) as error:
            sys.stderr.write(f"what was measured cannot be kept for a later run: {error}\n")


class FilePlace:
    """A file; it is replaced by a rename."""

    def __init__(self, path: Path) -> None:
        """Use the path."""
        self._path = path

    def load(self) -> bytes | None:
        """Give the file's content."""
        try:
            with self._path.open("rb") as file:
                return file.read(_LIMIT)
        except FileNotFoundError:
            return None

    def save(self, data: bytes) -> None:
        """Write beside and rename."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)


class StorePlace:
    """The artifact store: the next Job for the same artifact finds what this one measured."""

    def __init__(self, store: Store, key: str) -> None:
        """Keep the text under the artifact's key."""
        self._store = store
        self._key = key

    def load(self) -> bytes | None:
        """Ask the store."""
        return asyncio.run(self._store.recall(self._key))

    def save(self, data: bytes) -> None:
        """Tell the store."""
        asyncio.run(self._store.note(self._key, data))
