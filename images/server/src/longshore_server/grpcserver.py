"""One gRPC listener: what its connections share."""

import asyncio

from longshore_server.config import Limits
from longshore_server.grpcconnection import GrpcConnection
from longshore_server.grpcstream import Service
from longshore_server.metrics import Metrics
from longshore_server.tracing import Observer


class GrpcServer:
    """What all connections of one listener share. `message_bytes`: of requests that are being received."""

    def __init__(
        self, service: Service, limits: Limits, metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        """`service` is asked for each distinct header block of each connection."""
        self.service = service
        self.limits = limits
        self.metrics = metrics
        self.loop = loop
        self.connections: set[GrpcConnection] = set()
        self.message_bytes = 0
        self.draining = False
        self.observer: Observer | None = None

    def __call__(self) -> GrpcConnection:
        """A protocol for a new connection."""
        return GrpcConnection(self)

    def drain(self) -> None:
        """Tell every client to open no more streams here; open ones go on."""
        self.draining = True
        for connection in list(self.connections):
            connection.go_away()

    def forget_headers(self) -> None:
        """Resolve all header blocks anew, after what they were checked against has changed."""
        for connection in self.connections:
            connection.forget_headers()

    def sweep(self, now: float) -> None:
        """Close what has waited too long; `now` on the clock of `time.monotonic`."""
        for connection in list(self.connections):
            connection.enforce_timeouts(now)
