"""One model: its pods, the clients that wait for one, and the relays to them."""

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from longshore_activator.config import Endpoint, Port, Readiness, Route, WakeOn
from longshore_activator.hold import Budget, Held
from longshore_activator.poller import Poller
from longshore_activator.probe import family_of, until_ready
from longshore_activator.relay import Buffer, Relay, reset

_CONNECT_TIMEOUT = 1.0
_IN_PROGRESS = (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK)


@dataclass
class Counts:
    """Totals since start of one model, for metrics and events."""

    accepted: int = 0
    spliced: int = 0
    refused: int = 0
    expired: int = 0
    left: int = 0
    dial_failures: int = 0


@dataclass(eq=False)
class _Pod:
    """One endpoint as this process knows it."""

    address: str
    ready: bool
    warm: bool = False
    proved: bool = False
    active: int = 0
    probe: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        return self.ready or self.proved


class ModelRoute:
    """Decides for each connection of one model: splice, hold or refuse.

    Args:
        route: what the operator said.
        poller: watches every connection.
        buffer: shared by all relays.
        total: the budget shared by all models.
        on_demand: called when the first client begins to wait; it must reach the operator at once.
        on_change: called when any number of `snapshot` changed.
    """

    def __init__(
        self,
        route: Route,
        poller: Poller,
        buffer: Buffer,
        total: Budget,
        on_demand: Callable[[str], None],
        on_change: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._poller = poller
        self._buffer = buffer
        self._total = total
        self._budget = Budget(route.limits.max_held, route.limits.max_held_bytes)
        self._on_demand = on_demand
        self._on_change = on_change
        self._pods: dict[str, _Pod] = {}
        self._waiting: dict[Held, None] = {}
        self._dialing: set[socket.socket] = set()
        self._relays: set[Relay] = set()
        self._pod_of: dict[Relay, _Pod] = {}
        self._demanding = 0
        self._woken = False
        self._closed = False
        self.counts = Counts()
        self.hold_seconds_sum = 0.0
        self.route = route
        self.update(route)

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return self.route.key

    @property
    def active(self) -> int:
        """Connections joined to a pod or being joined."""
        return len(self._relays) + len(self._dialing)

    @property
    def held(self) -> int:
        """Connections that wait."""
        return len(self._waiting)

    @property
    def demand(self) -> int:
        """Clients that ask for a pod: those that wait, and those of a warm copy while it stands in.

        What a warm copy took counts until the operator lists another pod, even if it was answered meanwhile:
        a short request would be over before the operator heard of it.
        """
        if any(pod.usable and not pod.warm for pod in self._pods.values()):
            return self._demanding
        joined = sum(pod.active for pod in self._pods.values() if pod.warm)
        return self._demanding + max(joined, int(self._woken))

    def snapshot(self) -> dict[str, object]:
        """Give what the operator needs to know about this model, ready for JSON."""
        oldest = next(iter(self._waiting), None)
        return {
            "key": self.key,
            "held": self.held,
            "demand": self.demand,
            "heldBytes": self._budget.bytes,
            "oldestSeconds": round(self._loop.time() - oldest.since, 3) if oldest else 0.0,
            "active": self.active,
            "usableEndpoints": sum(pod.usable for pod in self._pods.values()),
            **{"dialFailures" if k == "dial_failures" else k: v for k, v in asdict(self.counts).items()},
        }

    def update(self, route: Route) -> None:
        """Take the operator's new view; running relays are left alone."""
        self.route = route
        self._budget.max_count = route.limits.max_held
        self._budget.max_bytes = route.limits.max_held_bytes
        self.set_endpoints(route.endpoints)

    def set_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Replace the pods; a wait ends as soon as one of them answers."""
        before = self.demand
        wanted = {endpoint.address: endpoint for endpoint in endpoints}
        for address in self._pods.keys() - wanted.keys():
            pod = self._pods.pop(address)
            pod.ready = pod.proved = False
            if pod.probe is not None:
                pod.probe.cancel()
        for address, endpoint in wanted.items():
            known = self._pods.get(address)
            if known is None:
                self._pods[address] = _Pod(address, endpoint.ready, endpoint.warm)
            else:
                known.warm = endpoint.warm
                if known.ready and not endpoint.ready:
                    known.proved = False
                known.ready = endpoint.ready
        if any(not endpoint.warm for endpoint in endpoints):
            self._woken = False
        self._serve_waiting()
        self._probe_if_wanted()
        if self.demand != before:
            self._on_change(self.key)

    def accept(self, sock: socket.socket, port: Port) -> None:
        """Take a new client on `port`."""
        self.counts.accepted += 1
        if self._closed or self.active + self.held >= self.route.limits.max_connections:
            self._refuse(sock)
            return
        pod = self._pick()
        if pod is not None:
            self._dial(pod, sock, port.target, b"", False, self._loop.time())
            return
        self._hold(sock, port.target, b"", False, self._loop.time())

    def expire(self, now: float) -> None:
        """Refuse who has waited for longer than allowed."""
        limit = now - self.route.limits.hold_seconds
        for held in tuple(self._waiting):
            if held.since <= limit:
                self._forget(held)
                held.refuse()
                self.counts.expired += 1
        if self._waiting:
            self._on_change(self.key)

    def check_stalls(self, elapsed: float, limit: float) -> None:
        """Cut relays whose receiver takes nothing for `limit` seconds."""
        for relay in tuple(self._relays):
            relay.check_stall(elapsed, limit)

    def close(self, *, cut: bool) -> None:
        """Refuse who waits and what comes; with `cut` also end running relays with a reset."""
        self._closed = True
        for held in tuple(self._waiting):
            self._forget(held)
            held.refuse()
            self.counts.refused += 1
        for pod in self._pods.values():
            if pod.probe is not None:
                pod.probe.cancel()
        if cut:
            for relay in tuple(self._relays):
                relay.abort()

    # Holding

    def _hold(self, sock: socket.socket, target: int, first: bytes, ended: bool, since: float) -> None:
        if self._budget.full or self._total.full:
            self._refuse(sock)
            return
        held = Held(
            self._poller, sock, target, (self._budget, self._total), since, self._on_held_data, self._on_gone
        )
        held.take_back(first, ended)
        self._waiting[held] = None
        if self._demands(held):
            self._demand()
            self._serve(held)
        self._on_change(self.key)

    def _on_held_data(self, held: Held) -> None:
        if self.route.wake_on is WakeOn.DATA:
            self._demand()
            self._serve(held)

    def _demand(self) -> None:
        urgent = self.demand == 0
        self._demanding += 1
        if urgent:
            self._on_demand(self.key)
        else:
            self._on_change(self.key)
        self._probe_if_wanted()

    def _on_gone(self, held: Held) -> None:
        self.counts.left += 1
        self._forget(held)

    def _forget(self, held: Held) -> None:
        if self._waiting.pop(held, 0) is None:
            if self._demands(held):
                self._demanding -= 1
            self._on_change(self.key)

    def _demands(self, held: Held) -> bool:
        return self.route.wake_on is WakeOn.CONNECTION or bool(held.buffer)

    # Finding a pod

    def _pick(self, *, warm: bool = False) -> _Pod | None:
        """Give the pod with the fewest connections; a warm copy where nothing else is usable and `warm`."""
        best: _Pod | None = None
        for pod in self._pods.values():
            if not pod.usable or (pod.warm and not warm):
                continue
            if best is None or (pod.warm, pod.active) < (best.warm, best.active):
                best = pod
        return best

    def _probe_if_wanted(self) -> None:
        if not self._demanding or self._closed:
            return
        for pod in self._pods.values():
            if not pod.usable and pod.probe is None:
                pod.probe = self._loop.create_task(self._prove(pod))

    async def _prove(self, pod: _Pod) -> None:
        readiness: Readiness = self.route.readiness
        port = readiness.port or self.route.ports[0].target
        try:
            pod.proved = await until_ready(
                pod.address, port, readiness, lambda: self._demanding > 0 and not pod.usable
            )
        finally:
            pod.probe = None
        if pod.usable:
            self._serve_waiting()
        else:
            self._probe_if_wanted()  # demand may have come back while the last attempts were ended
        self._on_change(self.key)

    def _serve_waiting(self) -> None:
        if self._pick(warm=True) is not None:
            for held in tuple(self._waiting):
                self._serve(held)

    def _serve(self, held: Held) -> None:
        pod = self._pick(warm=self._demands(held))
        if pod is not None:
            self._forget(held)
            first, ended = held.release()
            self._dial(pod, held.sock, held.target, first, ended, held.since)

    # Joining

    def _dial(
        self, pod: _Pod, client: socket.socket, target: int, first: bytes, ended: bool, since: float
    ) -> None:
        if pod.warm and all(other.warm for other in self._pods.values()):
            self._woken = True
        upstream = socket.socket(family_of(pod.address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = (pod.address, target)
        code = upstream.connect_ex(peer)
        if code in _IN_PROGRESS:
            # On loopback and inside a node the handshake is over when the first call returns.
            code = upstream.connect_ex(peer)
            if code in _IN_PROGRESS:
                self._await_connect(pod, client, upstream, target, first, ended, since)
                return
        if code in (0, errno.EISCONN):
            self._join(pod, client, upstream, first, ended, since)
        else:
            upstream.close()
            self._dial_failed(pod, client, target, first, ended, since)

    def _await_connect(
        self,
        pod: _Pod,
        client: socket.socket,
        upstream: socket.socket,
        target: int,
        first: bytes,
        ended: bool,
        since: float,
    ) -> None:
        self._dialing.add(client)
        pod.active += 1

        def settle(timed_out: bool) -> None:
            timer.cancel()
            self._poller.remove_writer(upstream.fileno())
            self._dialing.discard(client)
            pod.active -= 1
            failed = timed_out or upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            if failed:
                upstream.close()
                self._dial_failed(pod, client, target, first, ended, since)
            else:
                self._join(pod, client, upstream, first, ended, since)

        timer = self._loop.call_later(_CONNECT_TIMEOUT, settle, True)
        self._poller.add_writer(upstream.fileno(), partial(settle, False))

    def _join(
        self,
        pod: _Pod,
        client: socket.socket,
        upstream: socket.socket,
        first: bytes,
        ended: bool,
        since: float,
    ) -> None:
        self.counts.spliced += 1
        self.hold_seconds_sum += self._loop.time() - since
        pod.active += 1
        relay = Relay(self._poller, self._buffer, client, upstream, first, ended, self._on_relay_closed)
        if relay.open:
            self._relays.add(relay)
            self._pod_of[relay] = pod
        else:
            pod.active -= 1
        self._on_change(self.key)

    def _on_relay_closed(self, relay: Relay) -> None:
        pod = self._pod_of.pop(relay, None)
        if pod is not None:
            pod.active -= 1
        self._relays.discard(relay)
        self._on_change(self.key)

    def _dial_failed(
        self, pod: _Pod, client: socket.socket, target: int, first: bytes, ended: bool, since: float
    ) -> None:
        """A pod that does not take a connection is asked again before it gets another."""
        self.counts.dial_failures += 1
        pod.ready = pod.proved = False
        if self._closed or self._loop.time() - since >= self.route.limits.hold_seconds:
            self._refuse(client)
            return
        other = self._pick(warm=bool(first))
        if other is not None:
            self._dial(other, client, target, first, ended, since)
            return
        self._hold(client, target, first, ended, since)

    def _refuse(self, sock: socket.socket) -> None:
        self.counts.refused += 1
        reset(sock)
        self._on_change(self.key)
