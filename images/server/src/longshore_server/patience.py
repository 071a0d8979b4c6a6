"""How much a connection may cost before it is shut out."""

from longshore_server.http2frames import ENHANCE_YOUR_CALM, Http2Error

# Frames that cost the server more than their sender, beyond what its answered calls excuse (floods of resets,
# pings, settings or empty frames: CVE-2019-9512, -9515, -9518, CVE-2023-44487).
_MAX_NUISANCES = 1000


class Patience:
    """Counts frames that ask for nothing against calls that were answered."""

    __slots__ = ("_nuisances",)

    def __init__(self) -> None:
        self._nuisances = 0

    def lose(self) -> None:
        """Such a frame came. Raises `Http2Error` when it was one too many."""
        self._nuisances += 1
        if self._nuisances > _MAX_NUISANCES:
            raise Http2Error(ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def regain(self) -> None:
        """A call was answered."""
        if self._nuisances:
            self._nuisances -= 1
