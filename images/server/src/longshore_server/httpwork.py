"""A request over HTTP whose answer is encoded by a function: for every protocol but V2, which has its own
way.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from longshore_server.errors import RequestError
from longshore_server.httpexchange import Exchange
from longshore_server.inference import Group, Outputs, Payload, Work

# (outputs, first row, rows) -> (body, content type)
Encode = Callable[[Outputs, int, int], tuple[bytes, bytes]]


class EncodedWork(Work):
    """One call, answered with what `encode` makes of its outputs."""

    __slots__ = ("encode", "exchange")
    protocol: ClassVar[str] = "http"

    def __init__(
        self,
        admitted: tuple[Group, int],
        payloads: Sequence[Payload],
        received: float,
        exchange: Exchange,
        encode: Encode,
    ) -> None:
        """`admitted` is what `Admission.admit` gave."""
        super().__init__(*admitted, payloads, received, None)
        self.exchange = exchange
        self.encode = encode

    @property
    def abandoned(self) -> bool:
        """Whether the connection is gone."""
        return self.exchange.closed

    def finish(self, outputs: Outputs, start: int) -> None:
        """Write the encoded answer."""
        self.exchange.answer(*self.encode(outputs, start, self.rows))

    def fail(self, error: RequestError) -> None:
        """Write the error."""
        self.exchange.fail(error)
