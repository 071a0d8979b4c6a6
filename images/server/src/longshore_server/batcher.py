"""Joins requests into batches: what is parsed in one turn of the event loop runs together.

One run at a time. While the model runs in its thread, requests gather, so batches grow with load by
themselves; an idle server runs at once. Short runs stay on the event loop's thread, where they cost no
hand-over.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from longshore_server.dtypes import Array
from longshore_server.errors import RequestError, backend_failed, deadline_exceeded, overloaded
from longshore_server.inference import Group, Outputs, Work, assemble
from longshore_server.metrics import Metrics
from longshore_server.mirror import Mirror
from longshore_server.samples import Samples
from longshore_server.session import Signature

_log = logging.getLogger(__name__)

# Another turn of the event loop costs about this many seconds: saving less by waiting for more is no gain.
_TURN = 50e-6


class Engine(Protocol):
    """What runs a batch: a session, or a cascade of two."""

    @property
    def signature(self) -> Signature:
        """Inputs and outputs."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run on arrays in the signature's order. Raises `RequestError`."""


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """`objective` and `inline` in seconds: runs expected to be longer than `inline` leave the loop's
    thread.
    """

    objective: float
    max_rows: int
    queue_size: int
    inline: float


class Batcher:
    """The queue before one engine. All methods are for the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        options: BatchingOptions,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        mirror: Mirror | None = None,
        samples: Samples | None = None,
    ) -> None:
        """Nothing starts before the first request; `mirror` and `samples` are shown every answer."""
        self._engine = engine
        self._options = options
        self._metrics = metrics
        self._loop = loop
        self._mirror = mirror
        self._samples = samples
        self._groups: dict[Group, None] = {}  # those that wait, in no order
        self._waiting = 0
        self._running = 0
        self._turn_due = False
        self._arrived = False
        self._holding_since = 0.0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return self._waiting + self._running

    def submit(self, work: Work) -> None:
        """Take one request. Raises `RequestError` when the queue is full."""
        self.check_room()
        group = work.group
        group.queue.append(work)
        self._groups[group] = None
        self._waiting += 1
        self._arrived = True
        if self._running:
            self._metrics.load(self._waiting, self.in_flight)
        elif not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def check_room(self) -> None:
        """Raise `RequestError` when the queue is full: asked before the work of decoding a request."""
        if self._waiting >= self._options.queue_size:
            raise self._overload()

    async def wait_idle(self) -> None:
        """Return once nothing waits or runs."""
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()

    def close(self) -> None:
        """Let the model's thread end after its current run."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _overload(self) -> RequestError:
        group = self._oldest()
        rows = group.cost.best_rows(self._options.objective, self._options.max_rows) if group.batched else 1
        seconds = self._waiting / rows * group.cost.predict(rows)
        return overloaded(
            f"{self._waiting} requests wait already: retry later or add replicas", max(1, math.ceil(seconds))
        )

    def _turn(self) -> None:
        """One decision: wait one more turn of the loop, or run the oldest group."""
        self._turn_due = False
        if self._running or not self._waiting:
            return
        now = time.perf_counter()
        group = self._oldest()
        most = group.cost.best_rows(self._options.objective, self._options.max_rows) if group.batched else 1
        if self._should_hold(group, most, now):
            self._arrived = False
            self._turn_due = True
            self._loop.call_soon(self._turn)
            return
        self._arrived = False
        self._holding_since = 0.0
        works, rows = self._take(group, most, now)
        self._metrics.load(self._waiting, self._waiting + len(works))
        if not works:
            self._next_turn()
        elif group.cost.predict(rows) <= self._options.inline:
            self._run_here(group, works, rows, now)
            self._next_turn()
        else:
            self._running = len(works)
            future = self._executor.submit(self._execute, group, works)
            future.add_done_callback(
                lambda done: self._loop.call_soon_threadsafe(
                    self._finish, group, works, rows, now, done.result()
                )
            )

    def _next_turn(self) -> None:
        if self._waiting:
            if not self._turn_due:
                self._turn_due = True
                self._loop.call_soon(self._turn)
        elif not self._running:
            self._metrics.load(0, 0)
            self._idle.set()

    def _oldest(self) -> Group:
        if len(self._groups) == 1:
            return next(iter(self._groups))
        return min(self._groups, key=lambda group: group.queue[0].received)

    def _should_hold(self, group: Group, most: int, now: float) -> bool:
        """Whether one more turn of the loop may bring a fuller batch, at a gain.

        Joining a batch saves the fixed cost of another one, so it is worth waiting while requests still
        come in turn after turn, no longer than that cost, and only while the oldest request keeps its
        objective.
        """
        cost = group.cost
        if not self._arrived or cost.fixed < _TURN or len(group.queue) >= most:
            return False
        if not self._holding_since:
            self._holding_since = now
        slack = self._options.objective - (now - group.queue[0].received) - cost.predict(most)
        return now - self._holding_since < min(cost.fixed, slack)

    def _take(self, group: Group, most: int, now: float) -> tuple[list[Work], int]:
        """Take up to `most` rows (at least one request) off the queue; expired and abandoned ones end
        here.
        """
        works: list[Work] = []
        rows = 0
        queue = group.queue
        while queue and (not works or rows + queue[0].rows <= most):
            work = queue.popleft()
            self._waiting -= 1
            if work.abandoned:
                self._fail(work, deadline_exceeded("the client went away"))
            elif work.deadline is not None and work.deadline <= now:
                self._fail(
                    work, deadline_exceeded("the request's deadline passed while it waited for its turn")
                )
            else:
                works.append(work)
                rows += work.rows
        if not queue:
            del self._groups[group]
        return works, rows

    def _run_here(self, group: Group, works: list[Work], rows: int, began: float) -> None:
        self._finish_batch(group, works, rows, began, self._execute(group, works))

    def _execute(self, group: Group, works: Sequence[Work]) -> "Run | RequestError":
        """Assemble and run; on any thread.

        Errors are values here, since one may belong to one request only.
        """
        rows = sum(work.rows for work in works)
        try:
            inputs = [
                assemble(
                    spec.datatype,
                    (rows, *shape) if group.batched else shape,
                    [work.payloads[index] for work in works],
                )
                for index, (spec, shape) in enumerate(
                    zip(self._engine.signature.inputs, group.shapes, strict=True)
                )
            ]
            assembled = time.perf_counter()
            arrays = self._engine.run(inputs)
            return Run(arrays, assembled, time.perf_counter())
        except RequestError as error:
            return error
        except MemoryError:
            return backend_failed("out of memory while assembling the batch: send smaller tensors")
        except Exception:  # noqa: BLE001 - whatever fails here must still answer the requests it took
            _log.exception("a batch of %d failed", len(works))
            return backend_failed(
                "an internal error while running the model; the server's log has the details"
            )

    def _finish(
        self, group: Group, works: list[Work], rows: int, began: float, run: "Run | RequestError"
    ) -> None:
        self._running = 0
        self._finish_batch(group, works, rows, began, run)
        self._next_turn()

    def _finish_batch(
        self, group: Group, works: list[Work], rows: int, began: float, run: "Run | RequestError"
    ) -> None:
        if isinstance(run, RequestError):
            if len(works) == 1:
                self._fail(works[0], run)
                return
            # One request's values may have failed the whole batch: alone, the others still get their answers.
            for work in works:
                self._finish_batch(group, [work], work.rows, began, self._execute(group, [work]))
            return
        if group.batched and any(array.ndim == 0 or array.shape[0] != rows for array in run.arrays):
            self._wrong_rows(group, works, rows, began, run)
            return
        group.cost.observe(rows, run.finished - began)
        outputs = Outputs(self._engine.signature, run.arrays, group.batched)
        start = 0
        for work in works:
            try:
                work.finish(outputs, start)
            except RequestError as error:
                work.fail(error)
            start += work.rows
        self._metrics.batch_done(works, rows, began, run.assembled, run.finished, time.perf_counter())
        self._metrics.predicted(works, outputs)
        if self._mirror is not None:
            self._mirror.observe(works, outputs)
        if self._samples is not None:
            self._samples.observe(works)

    def _wrong_rows(self, group: Group, works: list[Work], rows: int, began: float, run: "Run") -> None:
        """The model gave other rows than it got: what it proved at start does not hold for these values."""
        if len(works) == 1:
            outputs = Outputs(self._engine.signature, run.arrays, batched=False)
            works[0].finish(outputs, 0)
            self._metrics.batch_done(works, rows, began, run.assembled, run.finished, time.perf_counter())
            return
        _log.warning(
            "the model's outputs do not follow its batch dimension for shapes %s: run singly", group.shapes
        )
        group.cost.fixed = 0.0
        for work in works:
            self._finish_batch(group, [work], work.rows, began, self._execute(group, [work]))

    def _fail(self, work: Work, error: RequestError) -> None:
        self._metrics.request_failed(error)
        work.fail(error)


@dataclass(frozen=True, slots=True)
class Run:
    """One run's outputs and the moments its inputs were ready and its outputs were."""

    arrays: list[Array]
    assembled: float
    finished: float
