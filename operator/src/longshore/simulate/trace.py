"""Request traces: how many requests came when.

A CSV file with a header. `time` is in seconds (any origin) or RFC 3339; the other column decides:
- `requests`: number of requests from this row's time to the next row's;
- `rps`: requests per second in that time;
- neither: each row is one request.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random

MAX_ROWS = 5_000_000
MAX_REQUESTS = 50_000_000


class TraceError(ValueError):
    """A trace that cannot be read; the message names the line and what to write instead."""


@dataclass(frozen=True)
class Trace:
    """Requests by intervals: `counts[i]` came between `times[i]` and `times[i + 1]`, in seconds from 0."""

    times: tuple[float, ...]
    counts: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Length of the trace."""
        return self.times[-1]

    @property
    def requests(self) -> float:
        """Number of requests."""
        return sum(self.counts)

    def arrivals(self, seed: int) -> Iterator[float]:
        """Yield arrival times in order: within an interval they come independently of each other."""
        random = Random(seed)  # noqa: S311 - a simulation, no secret
        owed = 0.0
        for begin, end, count in zip(self.times, self.times[1:], self.counts, strict=False):
            owed += count
            whole = int(owed + 1e-9)
            owed -= whole
            if whole:
                width = end - begin
                yield from sorted([begin + random.random() * width for _ in range(whole)])


def from_rates(rates: Sequence[float], width: float, seed: int) -> Trace:
    """Make a trace of Poisson counts from a rate for each interval of `width` seconds."""
    random = Random(seed)  # noqa: S311 - a simulation, no secret
    counts = [float(poisson(random, rate * width)) for rate in rates]
    return Trace(tuple(i * width for i in range(len(rates) + 1)), tuple(counts))


def poisson(random: Random, mean: float) -> int:
    """Draw a Poisson number; large means by their normal limit."""
    if mean > 200:
        return max(0, round(random.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-max(mean, 0.0)), random.random(), 0
    while product > limit:
        product *= random.random()
        count += 1
    return count


def read(lines: Iterable[str]) -> Trace:
    """Read a CSV trace.

    Raises:
        TraceError: the text is no such trace.
    """
    rows = csv.reader(lines)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if "time" not in header:
            raise TraceError(
                f"line 1: no column 'time' in {','.join(header) or 'an empty file'}: "
                "begin with a header such as time,requests"
            )
        where = header.index("time")
        kind = next((name for name in ("requests", "rps") if name in header), "")
        value = header.index(kind) if kind else -1
        times: list[float] = []
        values: list[float] = []
        for number, row in enumerate(rows, start=2):
            if not row or not "".join(row).strip():
                continue
            if len(times) >= MAX_ROWS:
                raise TraceError(f"line {number}: more than {MAX_ROWS} rows: aggregate them by second")
            try:
                times.append(_time(row[where]))
                values.append(float(row[value]) if kind else 1.0)
            except (ValueError, IndexError) as error:
                raise TraceError(f"line {number}: {','.join(row)[:80]!r} cannot be read: {error}") from error
            if not math.isfinite(times[-1]) or not math.isfinite(values[-1]) or values[-1] < 0:
                raise TraceError(f"line {number}: numbers must be finite and not negative")
            if len(times) > 1 and times[-1] < times[-2]:
                raise TraceError(f"line {number}: time goes back: sort the rows by time")
    except csv.Error as error:
        raise TraceError(f"line {rows.line_num}: no CSV: {error}") from error
    if len(times) < 2:
        raise TraceError("the trace has fewer than two rows: nothing to replay")
    trace = _intervals(times, values) if kind else _events(times)
    if kind == "rps":
        widths = [b - a for a, b in zip(trace.times, trace.times[1:], strict=False)]
        trace = Trace(trace.times, tuple(r * w for r, w in zip(trace.counts, widths, strict=True)))
    if trace.requests > MAX_REQUESTS:
        raise TraceError(f"{trace.requests:.3g} requests are more than {MAX_REQUESTS}: cut or thin the trace")
    return trace


def _time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.strip()).timestamp()


def _intervals(times: list[float], values: list[float]) -> Trace:
    """The last row lasts as long as the one before it."""
    begin = times[0]
    last = times[-1] + max(times[-1] - times[-2], 1e-3)
    return Trace(tuple(t - begin for t in (*times, last)), tuple(values))


def _events(times: list[float]) -> Trace:
    """Bin single requests by tenths of a second."""
    begin = times[0]
    count = int((times[-1] - begin) * 10) + 1
    if count > MAX_ROWS:
        raise TraceError(f"the trace lasts {times[-1] - begin:.3g} s: give time,requests rows instead")
    counts = [0.0] * count
    for time in times:
        counts[int((time - begin) * 10)] += 1
    return Trace(tuple(i / 10 for i in range(count + 1)), tuple(counts))
