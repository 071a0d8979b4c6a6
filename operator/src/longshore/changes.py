"""Tell without a request whether an object stands as it should."""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from longshore.resources.names import APPLIED


def stamped(desired: Mapping[str, Any]) -> dict[str, Any]:
    """Add the hash of the object to its annotations: a field that is no longer wanted changes the hash."""
    metadata = desired["metadata"]
    text = orjson.dumps(desired, option=orjson.OPT_SORT_KEYS)
    annotations = {**metadata.get("annotations", {}), APPLIED: hashlib.sha256(text).hexdigest()[:16]}
    return {**desired, "metadata": {**metadata, "annotations": annotations}}


def stands(desired: Mapping[str, Any], live: Mapping[str, Any] | None) -> bool:
    """Tell whether everything that is desired is found in the live object.

    What others added is left alone. An empty value counts as an absent one: the API server drops them.
    """
    if live is None or live["metadata"].get("deletionTimestamp"):
        return False
    return _covers(desired, live)


def _covers(desired: Any, live: Any) -> bool:
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return not desired and live is None
        return all(_covers(value, live.get(key)) for key, value in desired.items())
    if isinstance(desired, (list, tuple)):
        if not isinstance(live, (list, tuple)):
            return not desired and live is None
        return len(desired) == len(live) and all(map(_covers, desired, live))
    if live is None:
        return desired in (None, "", 0, False)
    return bool(desired == live)
