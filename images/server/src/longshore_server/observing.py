"""Who is told of answered requests: nobody, unless asked for."""

from collections.abc import Sequence

from longshore_server.config import Settings
from longshore_server.spans import Spans
from longshore_server.tracing import Answered, Observer, access_log


class Observers:
    """Tells each of several observers."""

    def __init__(self, parts: Sequence[Observer], spans: Spans | None) -> None:
        """`spans` is one of the parts, and is closed with them."""
        self._parts = parts
        self._spans = spans

    def __call__(self, answered: Answered) -> None:
        """Tell of one request that has just been answered."""
        for part in self._parts:
            part(answered)

    def close(self, seconds: float) -> None:
        """Send what is still to be sent, for at most so long."""
        if self._spans is not None:
            self._spans.close(seconds)


def observers(settings: Settings) -> Observers | None:
    """What is to be told of every answer; None when nothing is. Raises `StartupError`."""
    parts: list[Observer] = []
    if settings.access_log_sample > 0:
        parts.append(access_log(settings.access_log_sample))
    spans = None
    if settings.otlp_endpoint:
        spans = Spans(settings.otlp_endpoint, settings.trace_sample, settings.name)
        parts.append(spans)
    return Observers(parts, spans) if parts else None
