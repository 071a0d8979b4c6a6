"""Runs preflights in the background, one a ModelDeployment, and keeps what they found."""

import asyncio
import logging
import time
from collections.abc import Callable

from longshore.api.base import seconds
from longshore.api.parse import parse_spec
from longshore.index import Key
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.asking import ready_pods
from longshore.plan.rollout.model import PreflightView
from longshore.plan.rollout.store import load_state
from longshore.plan.state import Observed
from longshore.preflight import preflight
from longshore.resources.names import mirror_key
from longshore.senses import Senses

RETRY = 10.0
"""Seconds before a preflight that could not be done is tried again."""

_LOGGER = logging.getLogger(__name__)


class Examiner:
    """Starts a preflight when a plan asks for one."""

    def __init__(self, senses: Senses) -> None:
        self._senses = senses
        self._running: dict[Key, tuple[str, asyncio.Task[None]]] = {}
        self._tried: dict[Key, float] = {}
        self.wake: Callable[[Key], None] = lambda key: None

    def examine(self, observed: Observed, revision: str) -> None:
        """See that a preflight of the revision is under way or done; never waits."""
        key = (observed.owner.namespace, observed.owner.name)
        known = self._senses.preflight.get(key)
        running = self._running.get(key)
        if running is not None and running[0] == revision:
            return
        done = known is not None and known.revision == revision
        if done and known is not None and known.verdict is not Verdict.ERROR:
            return
        if done and time.monotonic() - self._tried.get(key, 0.0) < RETRY:
            return
        if running is not None:
            running[1].cancel()
        self._tried[key] = time.monotonic()
        task = asyncio.ensure_future(self._run(key, observed, revision))
        self._running[key] = (revision, task)

    async def _run(self, key: Key, observed: Observed, revision: str) -> None:
        try:
            self._senses.preflight[key] = await _examine(observed, revision)
        except Exception as error:
            _LOGGER.exception("preflight failed", extra={"key": f"{key[0]}/{key[1]}"})
            text = f"{type(error).__name__}: {error}"
            self._senses.preflight[key] = PreflightView(revision, Verdict.ERROR, text)
        finally:
            current = self._running.get(key)
            if current is not None and current[1] is asyncio.current_task():
                del self._running[key]
            self.wake(key)


async def _examine(observed: Observed, revision: str) -> PreflightView:
    spec = parse_spec(observed.spec)
    state = load_state(observed.status.get("rollout", {}).get("state"))
    new = ready_pods(observed, revision)
    old = ready_pods(observed, state.stable) if state is not None and state.stable else ()
    if not new:
        return PreflightView(revision, Verdict.ERROR, "no pod of the new revision is ready")
    if not old:
        return PreflightView(revision, Verdict.NO_DATA, "no pod of the stable revision answers")
    objective = spec.serving.latency_objective
    return await preflight(
        observed.owner.name,
        revision,
        old[0],
        new[0],
        spec.rollout.preflight,
        seconds(objective) if objective else None,
        mirror_key(observed.owner),
    )
