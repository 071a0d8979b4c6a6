"""Lets clients that were just answered ask again before the next batch, by images/triton/preload/gather.c.

Triton gives a free copy of a model what waits at once: clients that ask again when they are answered fall
into groups that take turns. A delay of its batcher joins them, but is waited out where fewer clients are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from longshore_triton.modelconfig import ModelConfig, kind

LIBRARY = Path("preload") / "gather.so"
_PRELOAD = "LD_PRELOAD"
_VARIABLE = "LONGSHORE_GATHER"


def environment(environment: Mapping[str, str], home: Path, configs: Sequence[ModelConfig]) -> dict[str, str]:
    """Give the server's environment, with the library where it applies.

    It counts the requests of the whole server, so it is for one copy of one model, and for the backend of
    images/triton/backends, which bounds what it joins. A delay or a bounded queue stays as it was asked
    for.
    """
    library = home / LIBRARY
    rows = _rows(configs)
    if not rows or not library.is_file():
        return dict(environment)
    before = environment.get(_PRELOAD)
    return {
        **environment,
        _PRELOAD: f"{library}:{before}" if before else str(library),
        _VARIABLE: str(rows),
    }


def _rows(configs: Sequence[ModelConfig]) -> int:
    """Give the largest batch worth waiting for; 0 where none is waited for."""
    if len(configs) != 1:
        return 0
    (config,) = configs
    batching = config.dynamic_batching
    copies = [group.count for group in config.instance_group if group.kind == kind("CPU")]
    if (
        not config.HasField("dynamic_batching")
        or "joined_rows" not in config.parameters
        or batching.max_queue_delay_microseconds
        or batching.default_queue_policy.max_queue_size
        or config.response_cache.enable
        or len(config.instance_group) != 1
        or copies != [1]
    ):
        return 0
    return int(config.parameters["joined_rows"].string_value)
