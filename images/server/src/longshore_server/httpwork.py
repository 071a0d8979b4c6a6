"""A request over HTTP whose answer is encoded by a function: for every protocol but V2, which has its own
way.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from longshore_server.errors import RequestError
from longshore_server.http1 import HttpConnection
from longshore_server.inference import Group, Outputs, Payload, Work

# (outputs, first row, rows) -> (body, content type)
Encode = Callable[[Outputs, int, int], tuple[bytes, bytes]]


class EncodedWork(Work):
    """One call, answered with what `encode` makes of its outputs."""

    __slots__ = ("connection", "encode")
    protocol: ClassVar[str] = "http"

    def __init__(
        self,
        admitted: tuple[Group, int],
        payloads: Sequence[Payload],
        received: float,
        connection: HttpConnection,
        encode: Encode,
    ) -> None:
        """`admitted` is what `Admission.admit` gave."""
        super().__init__(*admitted, payloads, received, None)
        self.connection = connection
        self.encode = encode

    @property
    def abandoned(self) -> bool:
        """Whether the connection is gone."""
        return self.connection.closed

    def finish(self, outputs: Outputs, start: int) -> None:
        """Write the encoded answer."""
        self.connection.answer(*self.encode(outputs, start, self.rows))

    def fail(self, error: RequestError) -> None:
        """Write the error."""
        self.connection.fail(error)
