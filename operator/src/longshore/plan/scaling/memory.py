"""What status keeps of the load: enough to go on after a restart as if there had been none."""

import json
import math
from collections.abc import Mapping
from typing import Any

from longshore.plan.scaling.forecast import MAX_BINS
from longshore.plan.scaling.state import State, from_json, to_json

KEPT_FOR = 300.0
"""Seconds between two writes of what was learned; a restart loses at most this much of it."""

_CLOCKS = ("at", "lowered_at")
_TIME_LIKE = 1e6
"""Numbers from here on are moments, kept to the second; others are kept to four digits."""


def remember(
    previous: Mapping[str, Any] | None, state: State, now: float, forecast: str = ""
) -> Mapping[str, Any] | None:
    """Give what status shall hold, a few KiB; the previous value while it is recent or still true.

    Args:
        previous: what status holds.
        state: what is known by now.
        now: seconds since the epoch.
        forecast: what is forecast and how far off forecasts are, for people; empty without one.
    """
    if previous is not None and 0 <= now - _moment(previous) < KEPT_FOR:
        return previous
    learned = state.learned()
    if not (learned.fits or learned.readiness or learned.seasonal):
        return previous
    known = _rounded(json.loads(to_json(learned)))
    kept = {name: value for name, value in known.items() if name not in _CLOCKS}
    if previous is not None and previous.get("learned") == kept:
        return previous
    return {"at": math.floor(now), "learned": kept, **({"forecast": forecast} if forecast else {})}


def recall(kept: Mapping[str, Any] | None) -> State:
    """Give the state to go on from; a fresh one where nothing is kept or it cannot be used."""
    if kept is None or not isinstance(kept.get("learned"), Mapping):
        return State()
    try:
        state = from_json(json.dumps({**kept["learned"], "at": _moment(kept)}, allow_nan=False))
    except ValueError:
        return State()
    season = state.seasonal
    if season is not None and not (season.period > 0 and 0 < len(season.bins) <= MAX_BINS):
        return State()
    return state


def _moment(kept: Mapping[str, Any]) -> float:
    at = kept.get("at")
    return float(at) if isinstance(at, (int, float)) and math.isfinite(at) and at >= 0 else 0.0


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(round(value)) if abs(value) >= _TIME_LIKE else float(f"{value:.4g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return value
