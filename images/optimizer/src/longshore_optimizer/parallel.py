"""One search by several pods: each owns a fixed part of the candidates and keeps a table of it in the store.

Worker 0 leads: it gathers the tables, decides and writes the artifact. Tables have one writer each, so any
store holds them, and parts do not overlap, so nothing is measured twice. A worker whose table stands still
for `Share.patience` seconds counts as dead, and the leader does what is missing of its part.
"""

import hashlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from longshore.artifact.base import Wire
from longshore.artifact.manifest import Verdict
from pydantic import Field, ValidationError

from longshore_optimizer.decide import Latency, Trial
from longshore_optimizer.errors import Problem
from longshore_optimizer.ledger import Place
from longshore_optimizer.measure.latency import rescale
from longshore_optimizer.statistics import Drop
from longshore_optimizer.techniques.base import Proposal

HELPERS_SHARE = 0.8
"""Share of `budget.time` that helpers may use: the leader needs the rest to gather, confirm and write."""


@dataclass(frozen=True)
class Share:
    """Which part of the search this process does; `place_of` gives where a worker's table is kept.

    Every `beat` seconds a helper writes its table anew; one that did not change for `patience` seconds is a
    dead worker's. The leader looks every `poll` seconds.
    """

    index: int
    count: int
    place_of: Callable[[int], Place]
    beat: float = 20.0
    patience: float = 120.0
    poll: float = 3.0

    @property
    def leads(self) -> bool:
        """Whether this process decides."""
        return self.index == 0


def note_key(key: str, index: int, what: str = "table") -> str:
    """Key under which a store notes a worker's table (or ledger), for the artifact of `key`."""
    return hashlib.sha256(f"{key}/{what}/{index}".encode()).hexdigest()


def parts(ordered: Sequence[Proposal], proposals: Sequence[Proposal], count: int) -> list[list[Proposal]]:
    """Divide proposals among `count` workers: those of `ordered` in turn, the most promising first, and what
    mends a candidate goes to the one that measures it."""
    owner = {p.name: place % count for place, p in enumerate(ordered)}
    divided: list[list[Proposal]] = [[] for _ in range(count)]
    for proposal in proposals:
        root = proposal.after if proposal.after in owner else proposal.name
        divided[owner.get(root, 0)].append(proposal)
    return divided


def trials_of(trials: int, index: int, count: int) -> int:
    """A worker's part of `budget.trials`."""
    return trials // count + (1 if index < trials % count else 0)


class Timing(Wire):
    """A latency in ms, as in `Latency`."""

    rounds: tuple[float, ...]
    cpu_rounds: tuple[float, ...]
    p50: float
    p95: float
    threads: int | None = None

    @classmethod
    def of(cls, latency: Latency) -> "Timing":
        """Take a latency."""
        return cls(**asdict(latency))

    def latency(self) -> Latency:
        """Give the latency."""
        return Latency(self.rounds, self.cpu_rounds, self.p50, self.p95, self.threads)


class Row(Wire):
    """One candidate as a worker found it; `latency` belongs with the `baseline` of the same table alone."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    size_bytes: int | None = None
    metric: float | None = None
    drop: float | None = None
    drop_upper: float | None = Field(default=None, description="None where the bound is infinite")
    verdict: Verdict | None = None
    reason: str = ""
    latency: Timing | None = None

    @classmethod
    def of(cls, trial: Trial) -> "Row":
        """Take a trial."""
        drop = trial.drop
        return cls(
            name=trial.proposal.name,
            parameters=trial.proposal.parameters,
            size_bytes=trial.size_bytes,
            metric=trial.metric,
            drop=drop.estimate if drop is not None else None,
            drop_upper=drop.upper if drop is not None and math.isfinite(drop.upper) else None,
            verdict=trial.verdict,
            reason=trial.reason,
            latency=Timing.of(trial.latency) if trial.latency is not None else None,
        )

    def trial(self, proposal: Proposal, baseline: Timing | None, reference: Latency | None) -> Trial:
        """Give the trial, its latency relative to `reference`, the original's on this machine."""
        drop = None
        if self.drop is not None:
            drop = Drop(self.drop, self.drop_upper if self.drop_upper is not None else math.inf)
        latency = None
        if self.latency is not None and baseline is not None and reference is not None:
            latency = rescale(self.latency.latency(), baseline.latency(), reference)
        return Trial(proposal, self.size_bytes, self.metric, drop, latency, self.verdict, self.reason)


class Table(Wire):
    """What one worker found. `beat` grows while it lives; `done` once nothing more comes."""

    key: str
    worker: int
    beat: int = 0
    done: bool = False
    baseline: Timing | None = None
    rows: tuple[Row, ...] = ()

    def trials(self, proposals: Sequence[Proposal], reference: Latency | None) -> dict[str, Trial]:
        """Give what needs nothing more of anybody, ruled out or timed, by name; latencies in relation to
        `reference`, the original's on this machine."""
        rows = {row.name: row for row in self.rows}
        found = {}
        for proposal in proposals:
            row = rows.get(proposal.name)
            if row is None or row.parameters != json.loads(json.dumps(proposal.parameters)):
                continue
            trial = row.trial(proposal, self.baseline, reference)
            if not trial.alive or trial.latency is not None:
                found[proposal.name] = trial
        return found


class Publisher:
    """A helper's table: written when something is new, and every `beat` seconds as a sign of life.

    It begins empty: a worker that was killed finds what it scored before in its ledger.
    """

    def __init__(self, share: Share, key: str) -> None:
        """Keep the table in the worker's own place."""
        self.share = share
        self._place = share.place_of(share.index)
        self._table = Table(key=key, worker=share.index)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._live, name="sign-of-life", daemon=True)

    def __enter__(self) -> Self:
        """Show the first sign of life."""
        self._save()
        self._pulse.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End with what there is: the leader need not wait for more."""
        self._ended.set()
        self._pulse.join()
        self._save(done=True)

    def publish(self, rows: Sequence[Row], baseline: Timing | None = None) -> None:
        """Put rows in place of those of the same names."""
        with self._lock:
            known = {row.name: row for row in self._table.rows} | {row.name: row for row in rows}
            self._table = self._table.model_copy(
                update={"rows": tuple(known.values()), "baseline": baseline or self._table.baseline}
            )
        self._save()

    def _live(self) -> None:
        while not self._ended.wait(self.share.beat):
            self._save()

    def _save(self, *, done: bool = False) -> None:
        with self._lock:
            self._table = self._table.model_copy(update={"beat": self._table.beat + 1, "done": done})
            try:
                self._place.save(self._table.model_dump_json(by_alias=True).encode())
            except (OSError, Problem) as error:
                sys.stderr.write(f"the table of worker {self.share.index} cannot be kept: {error}\n")


def read(place: Place, key: str) -> Table | None:
    """Give a worker's table, None where there is none of this search."""
    try:
        data = place.load()
        table = Table.model_validate_json(data) if data is not None else None
    except (OSError, Problem, ValidationError) as error:
        sys.stderr.write(f"a worker's table cannot be read yet: {error}\n")
        return None
    return table if table is not None and table.key == key else None


def gather(
    share: Share,
    key: str,
    left: Callable[[], float],
    told: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[int, Table]:
    """Wait until every helper is done or dead, or until `left` says that the time for it is over.

    A table that was written by a run before this one shows no new sign of life, and so counts as dead after
    `share.patience` seconds; what it holds is taken all the same.
    """
    tables: dict[int, Table] = {}
    changed = dict.fromkeys(range(1, share.count), clock())
    waiting = set(changed)
    while waiting:
        for index in sorted(waiting):
            table = read(share.place_of(index), key)
            if table is not None and (index not in tables or table.beat != tables[index].beat):
                tables[index] = table
                changed[index] = clock()
            if (table is not None and table.done) or clock() - changed[index] > share.patience:
                waiting.discard(index)
        told(share.count - 1 - len(waiting), share.count - 1)
        if not waiting or left() <= 0:
            break
        sleep(min(share.poll, max(left(), 0.0)))
    return tables
