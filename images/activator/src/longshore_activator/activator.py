"""All models of this process: listeners opened and closed as the operator says."""

import asyncio
import errno
import logging
import os
import socket
from dataclasses import dataclass

from longshore_activator.config import Endpoint, Port, Route, Routes
from longshore_activator.events import Hub
from longshore_activator.hold import Budget
from longshore_activator.poller import Poller
from longshore_activator.probe import family_of
from longshore_activator.relay import Buffer, reset_if_killed
from longshore_activator.route import ModelRoute

log = logging.getLogger(__name__)

_BACKLOG = 4096
_ACCEPTS_A_TURN = 64
_SWEEP_SECONDS = 0.25
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LINUX_USER_TIMEOUT = 18  # TCP_USER_TIMEOUT, absent from `socket` on some builds


@dataclass(frozen=True)
class Settings:
    """Bounds of the whole process."""

    bind: str = "0.0.0.0"  # noqa: S104 - a pod's model ports are reached through its own address
    max_held: int = 10_000
    max_held_bytes: int = 256 << 20
    stall_seconds: float = 300.0
    """A receiver that takes nothing of what waits for it for this long is cut off."""


class StaleVersionError(Exception):
    """The operator sent a table older than the one in force."""


@dataclass(eq=False)
class _Listener:
    port: Port
    sock: socket.socket

    @property
    def number(self) -> int:
        return int(self.sock.getsockname()[1])


class Activator:
    """Owns the listeners and the routes; lives on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._poller = Poller(self._loop)
        self._buffer = Buffer()
        self._total = Budget(settings.max_held, settings.max_held_bytes)
        self._routes: dict[str, ModelRoute] = {}
        self._retired: list[ModelRoute] = []
        self._listeners: dict[str, list[_Listener]] = {}
        self._errors: dict[str, str] = {}
        self.version = -1
        self.draining = False
        self.hub = Hub(self.snapshot)

    @property
    def routes(self) -> tuple[ModelRoute, ...]:
        """The models served, in the operator's order."""
        return tuple(self._routes.values())

    @property
    def held(self) -> int:
        """Connections that wait, over all models."""
        return self._total.count

    @property
    def held_bytes(self) -> int:
        """Bytes read from connections that wait, over all models."""
        return self._total.bytes

    @property
    def active(self) -> int:
        """Connections joined to a pod, over all models, removed ones included."""
        return sum(r.active for r in self._routes.values()) + sum(r.active for r in self._retired)

    def snapshot(self, key: str) -> dict[str, object] | None:
        """Give the numbers of one model, None when it is not served."""
        route = self._routes.get(key)
        return None if route is None else route.snapshot()

    def describe(self) -> dict[str, object]:
        """Give the version in force, the ports bound by model and what failed."""
        return {
            "version": self.version,
            "draining": self.draining,
            "ports": {
                key: {listener.port.name: listener.number for listener in listeners}
                for key, listeners in self._listeners.items()
            },
            "errors": dict(self._errors),
        }

    def apply(self, table: Routes) -> None:
        """Serve exactly what `table` lists. A port that cannot be bound is named in `describe`.

        Raises:
            StaleVersionError: `table` is older than what is in force.
        """
        if table.version < self.version:
            raise StaleVersionError(
                f"version {table.version} is older than {self.version}, which is in force: read it again"
            )
        self.version = table.version
        self._errors.clear()
        wanted = {route.key: route for route in table.routes}
        for key in self._routes.keys() - wanted.keys():
            route = self._routes.pop(key)
            self._close_listeners(self._listeners.pop(key, []))
            route.close(cut=False)
            self._retired.append(route)
        # Ports first given up, then taken: two models may have exchanged theirs.
        for key, spec in wanted.items():
            kept = [listener for listener in self._listeners.get(key, []) if listener.port in spec.ports]
            self._close_listeners([x for x in self._listeners.get(key, []) if x not in kept])
            self._listeners[key] = kept
        for key, spec in wanted.items():
            self._serve(key, spec)

    def set_endpoints(self, key: str, endpoints: tuple[Endpoint, ...]) -> bool:
        """Replace the pods of one model; False when it is not served."""
        route = self._routes.get(key)
        if route is None:
            return False
        route.set_endpoints(endpoints)
        return True

    def _serve(self, key: str, spec: Route) -> None:
        route = self._routes.get(key)
        if route is None:
            self._routes[key] = route = ModelRoute(
                spec, self._poller, self._buffer, self._total, self.hub.demand, self.hub.change
            )
        else:
            route.update(spec)
        if self.draining:
            return
        have = {listener.port for listener in self._listeners[key]}
        for port in spec.ports:
            if port not in have:
                try:
                    self._listeners[key].append(self._listen(route, port))
                except OSError as error:
                    self._errors[key] = (
                        f"cannot listen on port {port.listen} for {key}: {os.strerror(error.errno or 0)}; "
                        "give the model another port"
                    )
                    log.error("%s", self._errors[key])

    def _listen(self, route: ModelRoute, port: Port) -> _Listener:
        sock = socket.socket(family_of(self._settings.bind), socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # Accepted sockets inherit all of these on Linux, which saves system calls a connection.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
            sock.setsockopt(socket.IPPROTO_TCP, _LINUX_USER_TIMEOUT, 120_000)
            reset_if_killed(sock)
            sock.bind((self._settings.bind, port.listen))
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        listener = _Listener(port, sock)
        self._loop.add_reader(sock.fileno(), self._accept, route, listener)
        return listener

    def _accept(self, route: ModelRoute, listener: _Listener) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                client, _peer = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    # The connection stays in the kernel's queue; asking again at once would spin.
                    self._loop.remove_reader(listener.sock.fileno())
                    self._loop.call_later(0.1, self._resume_accepting, route, listener)
                    return
                continue  # a client that left between its handshake and here
            client.setblocking(False)
            try:
                route.accept(client, listener.port)
            except OSError as error:
                log.warning("%s: dropped a connection: %s", route.key, error)
                client.close()

    def _resume_accepting(self, route: ModelRoute, listener: _Listener) -> None:
        if listener.sock.fileno() >= 0:
            self._loop.add_reader(listener.sock.fileno(), self._accept, route, listener)

    def _close_listeners(self, listeners: list[_Listener]) -> None:
        for listener in listeners:
            self._loop.remove_reader(listener.sock.fileno())
            listener.sock.close()

    async def sweep(self) -> None:
        """Enforce what is bounded by time, until cancelled."""
        last_stall_check = self._loop.time()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._loop.time()
            for route in self._routes.values():
                route.expire(now)
            if (elapsed := now - last_stall_check) >= min(5.0, self._settings.stall_seconds / 2):
                last_stall_check = now
                for route in (*self._routes.values(), *self._retired):
                    route.check_stalls(elapsed, self._settings.stall_seconds)
                self._retired = [route for route in self._retired if route.active]

    def stop_accepting(self) -> None:
        """Close all listeners; who waits goes on waiting, relays go on."""
        for listeners in self._listeners.values():
            self._close_listeners(listeners)
            listeners.clear()

    def close(self) -> None:
        """Reset whatever is left."""
        self.stop_accepting()
        for route in (*self._routes.values(), *self._retired):
            route.close(cut=True)
        self._poller.close()
