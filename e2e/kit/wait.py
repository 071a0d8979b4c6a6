"""Wait for a condition with a deadline, and say what was seen when it passes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotYetError(AssertionError):
    """A condition did not come true in time; the text says what was seen last."""


def eventually(look: Callable[[], T | None], what: str, seconds: float = 60.0, pause: float = 0.2) -> T:
    """Look until the answer is true, and give it.

    Raises:
        NotYetError: it was not within `seconds`; with the last assertion that the look itself raised.
    """
    deadline = time.monotonic() + seconds
    last: AssertionError | None = None
    while True:
        try:
            found = look()
            if found:
                return found
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise NotYetError(f"{what}: not within {seconds:g} s" + (f"; last: {last}" if last else ""))
        time.sleep(pause)
