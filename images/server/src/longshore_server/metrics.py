"""Counters, gauges and histograms in one block of shared memory: a row of doubles for each worker process.

A worker writes its own row only, so no update needs a lock, and whichever worker is scraped adds up all rows.
Names beginning with `nv_inference_` are Triton's, so its dashboards and alerts work unchanged.
"""

import mmap
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from longshore_server.errors import FailureReason, RequestError
from longshore_server.mirrorlease import Lease
from longshore_server.predictions import PredictionMemory, Predictions

if TYPE_CHECKING:
    from longshore_server.inference import Outputs, Work

SECONDS_BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROWS_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_REASONS = (FailureReason.REJECTED, FailureReason.CANCELED, FailureReason.BACKEND, FailureReason.OTHER)
_PROTOCOLS = ("http", "grpc")


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric name and where its values lie in a row."""

    name: str
    kind: str
    help: str
    start: int
    labels: tuple[str, ...] = ()  # one series each, as `key="value"` text
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        return len(self.bounds) + 2 if self.bounds else max(len(self.labels), 1)


@dataclass(slots=True)
class _Layout:
    families: list[_Family] = field(default_factory=list)
    width: int = 0

    def add(
        self, name: str, kind: str, text: str, labels: tuple[str, ...] = (), bounds: tuple[float, ...] = ()
    ) -> int:
        family = _Family(name, kind, text, self.width, labels, bounds)
        self.families.append(family)
        self.width += family.width
        return family.start


_layout = _Layout()
_add = _layout.add
_SUCCESS = _add("nv_inference_request_success", "counter", "Requests answered")
_FAILURE = _add(
    "nv_inference_request_failure",
    "counter",
    "Requests refused or failed",
    tuple(f'reason="{reason}"' for reason in _REASONS),
)
_COUNT = _add("nv_inference_count", "counter", "Inferences made: rows, not requests")
_EXEC_COUNT = _add("nv_inference_exec_count", "counter", "Batches run")
_DURATION = _add("nv_inference_request_duration_us", "counter", "Time from request to answer, microseconds")
_QUEUE = _add("nv_inference_queue_duration_us", "counter", "Time requests waited, microseconds")
_INPUT = _add("nv_inference_compute_input_duration_us", "counter", "Time to assemble batches, microseconds")
_INFER = _add("nv_inference_compute_infer_duration_us", "counter", "Time in the model, microseconds")
_OUTPUT = _add("nv_inference_compute_output_duration_us", "counter", "Time to write answers, microseconds")
_PENDING = _add("nv_inference_pending_request_count", "gauge", "Requests waiting for a batch")
_REQUESTS = _add("longshore_requests_total", "counter", "Inference requests, whatever became of them")
_FAILED = _add(
    "longshore_requests_failed_total", "counter", "Requests that failed by the server's fault (5xx)"
)
_REFUSED = _add("longshore_requests_refused_total", "counter", "Requests refused as the client's fault (4xx)")
_OVER = _add(
    "longshore_requests_over_objective_total", "counter", "Requests slower than the latency objective"
)
_IN_FLIGHT = _add("longshore_requests_in_flight", "gauge", "Requests received and not yet answered")
_CONNECTIONS = _add(
    "longshore_connections", "gauge", "Open connections", tuple(f'protocol="{name}"' for name in _PROTOCOLS)
)
_STREAMS = _add("longshore_streams", "gauge", "Open gRPC streams")
_QUEUE_SECONDS = _add("longshore_queue_time_seconds_total", "counter", "Time requests waited, cumulative")
_COMPUTE_SECONDS = _add(
    "longshore_compute_time_seconds_total", "counter", "Time in the model by batch, cumulative"
)
_CASCADE = _add(
    "longshore_cascade_escalated_rows_total", "counter", "Rows that a cascade sent to its large model"
)
_COMPARED = _add(
    "longshore_mirror_compared_total",
    "counter",
    "Answers to copies, compared with those given here",
)
_DIFFERING = _add("longshore_mirror_differing_total", "counter", "Of them, not the same")
_DROPPED = _add("longshore_mirror_dropped_total", "counter", "Copies that were not sent: too many, too large")
_UNANSWERED = _add("longshore_mirror_failed_total", "counter", "Copies not answered, or not in time")
_REQUEST_HISTOGRAM = _add(
    "longshore_request_seconds", "histogram", "Request to answer", bounds=SECONDS_BOUNDS
)
_QUEUE_HISTOGRAM = _add(
    "longshore_queue_seconds", "histogram", "Wait of a batch's oldest", bounds=SECONDS_BOUNDS
)
_INPUT_HISTOGRAM = _add("longshore_input_seconds", "histogram", "Assembly of a batch", bounds=SECONDS_BOUNDS)
_COMPUTE_HISTOGRAM = _add("longshore_compute_seconds", "histogram", "Run of a batch", bounds=SECONDS_BOUNDS)
_OUTPUT_HISTOGRAM = _add("longshore_output_seconds", "histogram", "Answers of a batch", bounds=SECONDS_BOUNDS)
_ROWS_HISTOGRAM = _add("longshore_batch_size", "histogram", "Rows run together", bounds=ROWS_BOUNDS)
_LAST = _add("", "hidden", "Unix time of the last batch, milliseconds")
_READY = _add("longshore_workers_ready", "gauge", "Worker processes that are ready")
_CPU = _add("process_cpu_seconds_total", "counter", "Processor time of all workers")
_MEMORY = _add("process_resident_memory_bytes", "gauge", "Resident memory of all workers")

_GAUGES = [
    index
    for family in _layout.families
    if family.kind == "gauge"
    for index in range(family.start, family.start + family.width)
]


@dataclass(frozen=True, slots=True)
class Totals:
    """What the statistics calls report, over all workers; times in nanoseconds."""

    successes: int
    failures: int
    rows: int
    batches: int
    request_ns: int
    queue_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    last_inference_ms: int


class SharedMemory:
    """The rows of all workers; made before they are forked."""

    def __init__(self, workers: int) -> None:
        """Room for `workers` rows, all zero."""
        self._map = mmap.mmap(-1, max(workers * _layout.width * 8, mmap.PAGESIZE))
        self.workers = workers
        self.predictions = PredictionMemory(workers)
        self.lease = Lease()
        self.values: memoryview[float] = memoryview(self._map).cast("d")

    def row(self, worker: int) -> "memoryview[float]":
        """The row that `worker` writes."""
        return self.values[worker * _layout.width : (worker + 1) * _layout.width]

    def forget_gauges(self, worker: int) -> None:
        """Zero what was true only while the worker lived; its counters stay."""
        row = self.row(worker)
        for index in _GAUGES:
            row[index] = 0.0

    def sums(self) -> list[float]:
        """One value an index, over all workers."""
        rows = [self.row(worker) for worker in range(self.workers)]
        return [sum(values) for values in zip(*rows, strict=True)]

    def ready_workers(self) -> int:
        """How many workers are ready to answer."""
        return int(sum(self.row(worker)[_READY] for worker in range(self.workers)))


class Metrics:
    """What one worker counts. Times given to it are in seconds."""

    def __init__(
        self, memory: SharedMemory, worker: int, objective: float, labels: str, information: str
    ) -> None:
        """`objective` in seconds; `labels` and `information` are Prometheus label text without braces."""
        self._memory = memory
        self._row = memory.row(worker)
        self._predictions = Predictions(memory.predictions.row(worker))
        self._objective = objective
        self._labels = labels
        self._information = information

    def request_failed(self, error: RequestError) -> None:
        """One inference request ended in `error`."""
        row = self._row
        row[_REQUESTS] += 1
        row[_FAILURE + _REASONS.index(error.reason)] += 1
        row[_FAILED if error.is_server_fault else _REFUSED] += 1

    def batch_done(
        self, works: "Sequence[Work]", rows: int, began: float, assembled: float, ran: float, answered: float
    ) -> None:
        """A batch was answered: the times are its moments on the clock of `time.perf_counter`."""
        row = self._row
        count = len(works)
        duration = 0.0
        waited = 0.0
        over = 0
        objective = self._objective
        oldest = 0.0
        for work in works:
            received = work.received
            seconds = answered - received
            duration += seconds
            waited += began - received
            if began - received > oldest:
                oldest = began - received
            if seconds > objective:
                over += 1
            row[_REQUEST_HISTOGRAM + bisect_left(SECONDS_BOUNDS, seconds)] += 1
        row[_REQUEST_HISTOGRAM + len(SECONDS_BOUNDS) + 1] += duration
        row[_REQUESTS] += count
        row[_SUCCESS] += count
        row[_OVER] += over
        row[_COUNT] += rows
        row[_LAST] = time.time() * 1e3
        row[_EXEC_COUNT] += 1
        row[_DURATION] += duration * 1e6
        row[_QUEUE] += waited * 1e6
        row[_QUEUE_SECONDS] += waited
        row[_INPUT] += (assembled - began) * 1e6
        row[_INFER] += (ran - assembled) * 1e6
        row[_OUTPUT] += (answered - ran) * 1e6
        row[_COMPUTE_SECONDS] += ran - assembled
        self._observe(_QUEUE_HISTOGRAM, SECONDS_BOUNDS, oldest)
        self._observe(_INPUT_HISTOGRAM, SECONDS_BOUNDS, assembled - began)
        self._observe(_COMPUTE_HISTOGRAM, SECONDS_BOUNDS, ran - assembled)
        self._observe(_OUTPUT_HISTOGRAM, SECONDS_BOUNDS, answered - ran)
        self._observe(_ROWS_HISTOGRAM, ROWS_BOUNDS, rows)

    def predicted(self, works: "Sequence[Work]", outputs: "Outputs") -> None:
        """These requests were answered with these outputs."""
        self._predictions.observe(works, outputs, time.perf_counter())

    def _observe(self, start: int, bounds: tuple[float, ...], value: float) -> None:
        row = self._row
        row[start + bisect_left(bounds, value)] += 1
        row[start + len(bounds) + 1] += value

    def mirror_compared(self, differs: bool) -> None:
        """An answer to a copy was compared with the one given here."""
        self._row[_COMPARED] += 1
        self._row[_DIFFERING] += differs

    def mirror_dropped(self) -> None:
        """A copy was not sent."""
        self._row[_DROPPED] += 1

    def mirror_failed(self) -> None:
        """A copy was not answered as the protocol has it."""
        self._row[_UNANSWERED] += 1

    @property
    def lease(self) -> Lease:
        """What is asked of the mirrors of all workers."""
        return self._memory.lease

    def escalated(self, rows: int) -> None:
        """A cascade sent `rows` to its large model."""
        self._row[_CASCADE] += rows

    def load(self, waiting: int, in_flight: int) -> None:
        """How many requests wait, and how many are unanswered in all."""
        self._row[_PENDING] = waiting
        self._row[_IN_FLIGHT] = in_flight

    def connections(self, protocol: str, change: int) -> None:
        """A connection was opened (+1) or closed (-1)."""
        self._row[_CONNECTIONS + _PROTOCOLS.index(protocol)] += change

    def streams(self, change: int) -> None:
        """A gRPC stream was opened (+1) or closed (-1)."""
        self._row[_STREAMS] += change

    def ready(self, ready: bool) -> None:
        """This worker is ready, or is not any more."""
        self._row[_READY] = 1.0 if ready else 0.0

    @property
    def all_ready(self) -> bool:
        """Whether every worker is ready."""
        return self._memory.ready_workers() >= self._memory.workers

    def refresh_process(self) -> None:
        """Take this process's processor time and memory into its row."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._row[_CPU] = usage.ru_utime + usage.ru_stime
        self._row[_MEMORY] = _resident_bytes()

    def totals(self) -> Totals:
        """Sums for the statistics calls."""
        sums = self._memory.sums()
        micro = 1000
        return Totals(
            successes=int(sums[_SUCCESS]),
            failures=int(sum(sums[_FAILURE : _FAILURE + len(_REASONS)])),
            rows=int(sums[_COUNT]),
            batches=int(sums[_EXEC_COUNT]),
            request_ns=int(sums[_DURATION] * micro),
            queue_ns=int(sums[_QUEUE] * micro),
            input_ns=int(sums[_INPUT] * micro),
            infer_ns=int(sums[_INFER] * micro),
            output_ns=int(sums[_OUTPUT] * micro),
            last_inference_ms=int(
                max(self._memory.row(worker)[_LAST] for worker in range(self._memory.workers))
            ),
        )

    def exposition(self) -> bytes:
        """All metrics in Prometheus text format 0.0.4."""
        self.refresh_process()
        sums = self._memory.sums()
        lines: list[str] = []
        for family in _layout.families:
            if family.kind == "hidden":
                continue
            labels = "" if family.name.startswith("process_") else self._labels
            lines.append(f"# HELP {family.name} {family.help}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            values = sums[family.start : family.start + family.width]
            if family.bounds:
                lines += _histogram_lines(family, labels, values)
            elif family.labels:
                for label, value in zip(family.labels, values, strict=True):
                    lines.append(_line(family.name, [labels, label], value))
            else:
                lines.append(_line(family.name, [labels], values[0]))
        for name, text, extra, value in (
            ("longshore_latency_objective_seconds", "The latency objective", [], self._objective),
            ("longshore_workers", "Worker processes wanted", [], float(self._memory.workers)),
            ("longshore_mirror_share", "Share of requests that is copied", [], self._memory.lease.share),
            ("longshore_model_info", "What is served; always 1", [self._information], 1.0),
        ):
            lines += [
                f"# HELP {name} {text}",
                f"# TYPE {name} gauge",
                _line(name, [self._labels, *extra], value),
            ]
        return ("\n".join(lines) + "\n").encode()

    def predictions(self) -> bytes:
        """What was predicted, in Prometheus text format 0.0.4: many series, so not among the others."""
        return self._memory.predictions.exposition(self._labels)


def escape_label(value: str) -> str:
    """Escape a label value for the text format."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram_lines(family: _Family, labels: str, values: Sequence[float]) -> Iterable[str]:
    *counts, total = values
    running = 0.0
    for bound, count in zip((*map(_number, family.bounds), "+Inf"), counts, strict=True):
        running += count
        yield _line(f"{family.name}_bucket", [labels, f'le="{bound}"'], running)
    yield _line(f"{family.name}_sum", [labels], total)
    yield _line(f"{family.name}_count", [labels], running)


def _line(name: str, labels: Sequence[str], value: float) -> str:
    joined = ",".join(label for label in labels if label)
    return f"{name}{{{joined}}} {_number(value)}" if joined else f"{name} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _resident_bytes() -> float:
    try:
        with open("/proc/self/statm") as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
