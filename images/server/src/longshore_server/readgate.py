"""When a connection reads nothing from its client, for more than one reason at a time."""

import asyncio

_HOLD_OFF_SECONDS = 0.1


class ReadGate:
    """Pauses the transport's reading while it is `closed` or held off."""

    __slots__ = ("_held_off", "_loop", "_transport", "closed")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Open."""
        self._transport = transport
        self._loop = loop
        self._held_off = False
        self.closed = False

    def close(self) -> None:
        """Read no more until `open`."""
        if not self.closed:
            self.closed = True
            if not self._held_off:
                self._transport.pause_reading()

    def open(self) -> None:
        """Read again, unless held off."""
        if self.closed:
            self.closed = False
            if not self._held_off:
                self._transport.resume_reading()

    def hold_off(self) -> None:
        """Read nothing more for a moment: refusing an overloaded connection must not take the server's
        time.
        """
        if not self._held_off:
            self._held_off = True
            self._transport.pause_reading()
            self._loop.call_later(_HOLD_OFF_SECONDS, self._hold_off_over)

    def _hold_off_over(self) -> None:
        self._held_off = False
        if not self.closed and not self._transport.is_closing():
            self._transport.resume_reading()
