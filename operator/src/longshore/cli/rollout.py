"""What a person asks of a rollout: promote, pause, resume, abort, retry, rollback; and `watch` to see it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from longshore.cli.connection import connected, namespace_of
from longshore.plan.rollout.commands import FORCE, Order
from longshore.resources.kinds import MODEL_DEPLOYMENT
from longshore.resources.names import annotation_of

if TYPE_CHECKING:
    from longshore.cluster import Cluster

ANSWER_SECONDS = 30.0
"""How long an order may stay unanswered before the operator counts as away."""

Name = Annotated[str, typer.Argument(help="Name of the ModelDeployment.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace; absent: the context's.")]


def promote(
    name: Name,
    namespace: Namespace = None,
    full: Annotated[bool, typer.Option(help="Skip the steps and the analysis that are left.")] = False,
) -> None:
    """Go on to the next step; opens a gate."""
    _order(name, namespace, Order.PROMOTE_FULL if full else Order.PROMOTE)


def pause(name: Name, namespace: Namespace = None) -> None:
    """Stay at this step; analysis goes on."""
    _order(name, namespace, Order.PAUSE)


def resume(name: Name, namespace: Namespace = None) -> None:
    """Go on after a pause."""
    _order(name, namespace, Order.RESUME)


def abort(name: Name, namespace: Namespace = None) -> None:
    """Give the new revision up; all requests go back to the stable one."""
    _order(name, namespace, Order.ABORT)


def retry(name: Name, namespace: Namespace = None) -> None:
    """Try once more what failed: an optimize Job or a revision."""
    _order(name, namespace, Order.RETRY)


def rollback(
    name: Name,
    revision: Annotated[str, typer.Argument(help="Revision of status.revisions to go back to.")],
    namespace: Namespace = None,
    force: Annotated[bool, typer.Option(help="Skip preflight, steps and analysis.")] = False,
) -> None:
    """Go back to an earlier revision, through the same gates as a new one."""
    _order(name, namespace, Order.ROLLBACK, f"{revision},{FORCE}" if force else revision)


def watch(
    name: Name,
    namespace: Namespace = None,
    once: Annotated[bool, typer.Option(help="Print once and end.")] = False,
) -> None:
    """Show what is happening and why, until Ctrl-C."""

    async def look(cluster: "Cluster") -> None:
        where = namespace_of(namespace)
        console = Console()
        if once:
            console.print(render(await _read(cluster, where, name)))
            return
        with Live(console=console, refresh_per_second=4, screen=False) as live:
            while True:
                live.update(render(await _read(cluster, where, name)))
                await asyncio.sleep(1.0)

    _run(look)


def render(obj: Mapping[str, Any]) -> Group:
    """Draw a ModelDeployment: where it stands, who gets how many requests, and what is known."""
    status = obj.get("status", {})
    head = Text.assemble(
        (f"{obj['metadata']['namespace']}/{obj['metadata']['name']}", "bold"),
        "  ",
        (str(status.get("phase", "Unknown")), "bold yellow" if status.get("canary") else "bold green"),
        f"  {status.get('message', 'nothing is known yet; is the operator running?')}",
    )
    sides = Table(box=None, pad_edge=False)
    for column in ("", "REVISION", "WEIGHT", "PODS", "STEP", "EVIDENCE"):
        sides.add_column(column, overflow="fold")
    for title in ("stable", "canary"):
        side = status.get(title)
        if side:
            step = f"{side['step']}/{side['steps']}" if side.get("step") else ""
            pods = f"{side.get('readyReplicas', 0)}/{side.get('replicas', 0)}"
            bar = "█" * (side["weight"] // 5)
            weight = f"{side['weight']:3d} % {bar}"
            sides.add_row(title, side["revision"], weight, pods, step, side.get("evidence", ""))
    conditions = Table(box=None, pad_edge=False)
    for column in ("CONDITION", "", "REASON", "MESSAGE"):
        conditions.add_column(column, overflow="fold")
    for condition in status.get("conditions", ()):
        conditions.add_row(
            condition["type"], condition["status"], condition["reason"], condition.get("message", "")
        )
    return Group(head, Text(), sides, Text(), conditions)


def _order(name: str, namespace: str | None, order: Order, value: str | None = None) -> None:
    async def ask(cluster: "Cluster") -> None:
        where = namespace_of(namespace)
        annotation = annotation_of(order)
        patch = {"metadata": {"annotations": {annotation: value or f"{time.time():.3f}"}}}
        await cluster.merge(MODEL_DEPLOYMENT, where, name, patch)
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(0.3)
            obj = await _read(cluster, where, name)
            if annotation not in obj["metadata"].get("annotations", {}):
                state = obj.get("status", {}).get("rollout", {}).get("state", {})
                typer.echo(state.get("answer") or f"{order}: done")
                return
        typer.echo(
            f"{order} was asked, and not answered within {ANSWER_SECONDS:.0f} s: is the operator running?",
            err=True,
        )
        raise typer.Exit(1)

    _run(ask)


async def _read(cluster: "Cluster", namespace: str, name: str) -> Mapping[str, Any]:
    from longshore.cluster import ClusterError

    found = await cluster.get(MODEL_DEPLOYMENT, namespace, name)
    if found is None:
        raise ClusterError(404, "NotFound", f"there is no ModelDeployment {name} in namespace {namespace}")
    return found


def _run(work: "Callable[[Cluster], Awaitable[None]]") -> None:
    try:
        from longshore.cluster import ClusterError
    except ImportError as error:
        typer.echo(
            f"{error}: install what talks to a cluster with `pip install 'longshore[operator]'`", err=True
        )
        raise typer.Exit(2) from None
    try:
        asyncio.run(connected(work))
    except ClusterError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


COMMANDS: Mapping[str, Callable[..., None]] = {
    "promote": promote,
    "pause": pause,
    "resume": resume,
    "abort": abort,
    "retry": retry,
    "rollback": rollback,
    "watch": watch,
}
"""Commands by name; each is one action on one ModelDeployment."""
