"""What web hooks still have to be told: kept in status, so that a killed operator tells it after all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from longshore.plan.outcome import Notice

MOST_PENDING = 16
"""Entries that wait at most; status is no log."""

KEPT = 24 * 3600.0
"""Seconds after which a web hook that never took an entry is not tried any more."""

_MESSAGE = 500


@dataclass(frozen=True)
class Outbox:
    """What waits, as it stands in status, the oldest first; and how many were given up."""

    pending: tuple[Mapping[str, Any], ...] = ()
    given_up: int = 0


def urls_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the web hooks that a spec names, even one that cannot be understood as a whole."""
    rollout = spec.get("rollout")
    listed = rollout.get("notifications") if isinstance(rollout, Mapping) else None
    hooks = (
        [hook.get("url") for hook in listed if isinstance(hook, Mapping)] if isinstance(listed, list) else []
    )
    return tuple(dict.fromkeys(url for url in hooks if isinstance(url, str)))


def outbox(
    before: Sequence[Mapping[str, Any]],
    notices: Sequence[tuple[str, Notice]],
    delivered: frozenset[str],
    now: float,
) -> Outbox:
    """Add what is new, leave out what every web hook took, and what is too old or too much.

    Args:
        before: what waited, as it stands in status.
        notices: what is new, each with an identity that is the same if it is told again after a crash.
        delivered: identities that every web hook took.
        now: seconds since the epoch.
    """
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known = {entry["id"] for entry in before} | delivered
    fresh = [
        {
            "id": identity,
            "time": moment,
            "type": notice.type,
            "reason": notice.reason,
            "message": _short(notice.message),
        }
        for identity, notice in notices
        if identity not in known
    ]
    waiting = [entry for entry in before if entry["id"] not in delivered] + fresh
    kept = [entry for entry in waiting if now - _seconds(entry["time"]) < KEPT][-MOST_PENDING:]
    return Outbox(tuple(kept), len(waiting) - len(kept))


def _short(text: str) -> str:
    return text if len(text) <= _MESSAGE else text[: _MESSAGE - 1] + "…"


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
