"""Follows a ModelDeployment until it answers, and shows its status as it moves."""

import time
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from e2e.cluster.errors import ClusterError
from e2e.demo.tools import Tools

_PAUSE = 0.5
_STYLES = {"Chosen": "bold green", "Refused": "dim", "Failed": "red"}
_STALLED_SECONDS = 90
"""A stall may pass by itself, such as a registry that is still starting; this long it is waited for."""


def until_ready(tools: Tools, name: str, namespace: str, console: Console, seconds: float) -> dict[str, Any]:
    """Print every change of the status until the current spec is served; gives the status.

    Raises:
        ClusterError: it stalled, or the deadline passed; the message is the status's own.
    """
    begun = time.monotonic()
    shown, stalled_at = "", None
    with console.status("waiting for the operator") as spinner:
        while time.monotonic() - begun < seconds:
            found = tools.get("modeldeployment", name, namespace) or {}
            status: dict[str, Any] = found.get("status", {})
            conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
            said = f"{status.get('phase', 'Pending')}: {status.get('message') or 'not looked at yet'}"
            if said != shown:
                shown = said
                console.print(f"  [dim]{time.monotonic() - begun:5.1f} s[/dim]  {escape(said)}")
                spinner.update(escape(said[:100]))
            current = status.get("observedGeneration") == found.get("metadata", {}).get("generation")
            settled = conditions.get("Reconciling") == "False" and conditions.get("Stalled") == "False"
            if current and settled and conditions.get("Ready") == "True":
                return status
            if conditions.get("Stalled") != "True":
                stalled_at = None
            elif stalled_at is None:
                stalled_at = time.monotonic()
            elif time.monotonic() - stalled_at > _STALLED_SECONDS:
                break
            time.sleep(_PAUSE)
    raise ClusterError(
        f"ModelDeployment {namespace}/{name} does not serve its spec after {time.monotonic() - begun:.0f} s; "
        f"it says: {shown}\n  next step: `kubectl describe md {name} -n {namespace}`; "
        f"`kubectl logs -n longshore-system deployment/longshore`"
    )


def is_stalled(tools: Tools, name: str, namespace: str) -> bool:
    """Tell whether the operator has given up on the current spec."""
    status = (tools.get("modeldeployment", name, namespace) or {}).get("status", {})
    return any(c["type"] == "Stalled" and c["status"] == "True" for c in status.get("conditions", ()))


def measured(status: dict[str, Any]) -> Group:
    """Draw what the optimizer measured, as status holds it, and below it why each verdict fell."""
    optimization = status.get("optimization") or {}
    rows = optimization.get("candidates", ())
    table = Table(
        title=f"latency at batch 1; drop in {optimization.get('metric') or 'the metric'}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in ("candidate", "verdict"):
        table.add_column(column, no_wrap=True)
    for column in ("drop", "at most", "p50 ms", "p95 ms", "KiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(row["name"]),
            row["verdict"],
            _number(row.get("drop"), "{:+.4f}"),
            _number(row.get("dropUpper"), "{:+.4f}"),
            _number(row.get("p50Ms"), "{:.3f}"),
            _number(row.get("p95Ms"), "{:.3f}"),
            _number(row.get("sizeBytes"), "{:.0f}", 1024),
            style=_STYLES.get(row["verdict"], ""),
        )
    reasons = [f"  [bold]{escape(r['name'])}[/]: {escape(r['reason'])}" for r in rows if r.get("reason")]
    return Group(table, *reasons)


def _number(value: float | None, form: str, divisor: int = 1) -> str:
    return "" if value is None else form.format(value / divisor)
