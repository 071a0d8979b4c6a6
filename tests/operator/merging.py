"""How the API server puts what is applied, and patches, into an object that stands, as pure data."""

import copy
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def merge(live: Object, wanted: Mapping[str, Any]) -> None:
    """Set what is applied; maps go together, all else is replaced."""
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(live.get(key), dict):
            merge(live[key], value)
        else:
            live[key] = copy.deepcopy(value)


def forget(live: Object, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Take away what was applied before and is applied no more."""
    for key, value in before.items():
        if key not in wanted:
            live.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(live.get(key), dict):
            inner = wanted[key]
            forget(live[key], value, inner if isinstance(inner, Mapping) else {})


def merge_patch(live: Object, patch: Mapping[str, Any]) -> None:
    """Apply a JSON merge patch (RFC 7396) that does not change who an object is."""
    for key, value in patch.items():
        if value is None:
            live.pop(key, None)
        elif isinstance(value, Mapping):
            merge_patch(live.setdefault(key, {}), value)
        elif key not in ("uid", "resourceVersion"):
            live[key] = value
