"""The state of a rollout as JSON, for status."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from longshore.plan.rollout.model import RolloutState

_ADAPTER = TypeAdapter(RolloutState)


def dump_state(state: RolloutState) -> dict[str, Any]:
    """Give the state as JSON values, without what is empty, so that status stays short."""
    dumped: dict[str, Any] = _ADAPTER.dump_python(state, mode="json", exclude_defaults=True)
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in dumped.items()}


def load_state(raw: object) -> RolloutState | None:
    """Read what `dump_state` wrote; None where it is not readable (then `step` starts from what it sees)."""
    try:
        return _ADAPTER.validate_python(raw)
    except (ValidationError, ValueError, RecursionError):
        return None
