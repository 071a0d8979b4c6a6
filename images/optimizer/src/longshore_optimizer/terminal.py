"""The live table in the terminal: what is known of each candidate while it is measured."""

from types import TracebackType
from typing import Self

from longshore.artifact.job import Progress
from longshore.artifact.manifest import ORIGINAL, Candidate, Verdict
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from longshore_optimizer.decide import Trial
from longshore_optimizer.progress import Reporter
from longshore_optimizer.result import candidate

_STYLES = {
    Verdict.CHOSEN: "bold green",
    Verdict.KEPT: "green",
    Verdict.REFUSED: "yellow",
    Verdict.FAILED: "red",
    Verdict.SKIPPED: "dim",
}


class LiveTable(Reporter):
    """A reporter that draws; a context manager that ends the drawing."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`; it should be standard error, so that standard output stays for results."""
        super().__init__(self._progress, self._trial)
        self._trials: dict[str, Trial] = {}
        self._last = Progress(stage="Verify")
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> Self:
        """Start drawing."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw a last time and stop."""
        self._live.stop()

    def _progress(self, progress: Progress) -> None:
        self._last = progress

    def _trial(self, trial: Trial) -> None:
        self._trials[trial.proposal.name] = trial

    def _render(self) -> RenderableType:
        last = self._last
        head = Table.grid(padding=(0, 1))
        spinner = Spinner("dots", text=Text(f"{last.stage}  {last.message}"))
        if last.total:
            head.add_row(
                spinner,
                ProgressBar(total=last.total, completed=last.done, width=24),
                f"{last.done}/{last.total}",
            )
        else:
            head.add_row(spinner)
        rows = [candidate(t) if t.verdict else _open(t) for t in self._trials.values()]
        return Group(head, table(rows)) if rows else head


def _open(trial: Trial) -> Candidate:
    row = candidate(trial)
    return row.model_copy(update={"verdict": Verdict.SKIPPED, "reason": "..."})


def table(rows: "list[Candidate]") -> Table:
    """Draw the measured table, one row a candidate."""
    original = next((r for r in rows if r.name == ORIGINAL), None)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("candidate", no_wrap=True, min_width=max((len(r.name) for r in rows), default=8))
    for name, width in (
        ("metric", 6),
        ("drop <=", 7),
        ("p50 ms", 7),
        ("p95 ms", 7),
        ("speed", 5),
        ("size", 9),
    ):
        drawn.add_column(name, justify="right", no_wrap=True, min_width=width)
    drawn.add_column("verdict", no_wrap=True, min_width=7)
    drawn.add_column("why", overflow="fold", min_width=10)
    for row in rows:
        speed = ""
        if original is not None and original.p50_ms and row.p50_ms:
            speed = f"{original.p50_ms / row.p50_ms:.2f}x"
        pending = row.reason == "..."
        drawn.add_row(
            row.name,
            _number(row.metric, ".4f"),
            _number(row.drop_upper, ".4f"),
            _number(row.p50_ms, ".3f"),
            _number(row.p95_ms, ".3f"),
            speed,
            _bytes(row.size_bytes),
            "..." if pending else row.verdict.value,
            "" if pending else row.reason,
            style="" if pending else _STYLES[row.verdict],
        )
    return drawn


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _bytes(size: int | None) -> str:
    if size is None:
        return ""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
