"""TLS contexts whose certificates are read again when they change."""

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from longshore_server.errors import ExitCode, StartupError

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Certificates:
    """A certificate, its key and, for mutual TLS, the authorities whose clients are let in."""

    certificate: Path
    key: Path
    client_ca: Path | None
    _current: dict[tuple[str, ...], ssl.SSLContext] = field(default_factory=dict)
    """By the protocols that they offer, the contexts that connections to come are handed to."""
    _seen: tuple[bytes, ...] = ()

    def context(self, protocols: list[str]) -> ssl.SSLContext:
        """A context that offers `protocols` by ALPN. Raises `StartupError`."""
        offered = tuple(protocols)
        try:
            self._seen = self._read()
            context, self._current[offered] = self._make(offered), self._make(offered)
        except (OSError, ssl.SSLError) as error:
            raise StartupError(
                ExitCode.BAD_CONFIGURATION,
                f"cannot use {self.certificate} with {self.key}: {error}; mount a PEM chain and its key",
            ) from None

        def hand_over(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            """Serve a connection, as it begins, with what was read last; called with or without a name."""
            connection.context = self._current[offered]

        context.sni_callback = hand_over
        return context

    def reload(self) -> None:
        """Take new files for the connections to come.

        What cannot be used is logged, and the old ones stay.
        """
        try:
            content = self._read()
            if content == self._seen:
                return
            # Made anew: a context cannot forget an authority. Half-written files raise, and replace nothing.
            self._current |= {offered: self._make(offered) for offered in self._current}
        except (OSError, ssl.SSLError) as error:
            _log.warning(
                "cannot use the changed certificate %s: %s; the old one stays", self.certificate, error
            )
            return
        self._seen = content
        _log.info("certificate %s was read again", self.certificate)

    def _read(self) -> tuple[bytes, ...]:
        files = [self.certificate, self.key] + ([self.client_ca] if self.client_ca else [])
        return tuple(file.read_bytes() for file in files)

    def _make(self, offered: tuple[str, ...]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(list(offered))
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            # A resumed session shows no certificate: tickets would outlive an authority that is taken away.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context
