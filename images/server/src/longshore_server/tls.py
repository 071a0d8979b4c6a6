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
    _contexts: list[ssl.SSLContext] = field(default_factory=list)
    _seen: tuple[bytes, ...] = ()

    def context(self, protocols: list[str]) -> ssl.SSLContext:
        """A context that offers `protocols` by ALPN. Raises `StartupError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(protocols)
        try:
            self._seen = self._read()
            self._load(context)
        except (OSError, ssl.SSLError) as error:
            raise StartupError(
                ExitCode.BAD_CONFIGURATION,
                f"cannot use {self.certificate} with {self.key}: {error}; mount a PEM chain and its key",
            ) from None
        self._contexts.append(context)
        return context

    def reload(self) -> None:
        """Take new files for the connections to come.

        What cannot be used is logged, and the old ones stay.
        """
        try:
            content = self._read()
            if content == self._seen:
                return
            # Half-written files must not replace a context that works: they are tried on another one.
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            for context in self._contexts:
                self._load(context)
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

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
