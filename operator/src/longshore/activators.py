"""The operator's side of the activators: which there are, what they are told, and what they tell.

Waking is by push in both directions: an activator streams what waits, and gets a pod's address as soon as
the watch shows it. Only the list of activators is asked for again and again.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from longshore.cluster import Cluster, ClusterError
from longshore.index import Index, Key
from longshore.plan.scaling import Waiting
from longshore.plan.state import Activation, ActivatorView
from longshore.resources.endpointslice import SLICE_SUFFIX
from longshore.resources.kinds import POD
from longshore.resources.names import COMPONENT, GRPC_PORT, HTTP_PORT

PORTS = range(20000, 30000, 2)
"""Ports on which activators hold connections: an even one for HTTP, the next one for gRPC."""

CONTROL_PORT = 8090
DISCOVERY = 5.0
"""Seconds between lists of the activators' pods."""

_SELECTOR = f"{COMPONENT}=activator"
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=15)
"""An activator says something every 5 seconds; three times that in silence is a dead one."""

_LOGGER = logging.getLogger(__name__)


@dataclass
class _Activator:
    """One activator that is followed: what it said last of each model, and the table it has."""

    address: str
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: int = -1
    known: frozenset[str] = frozenset()


class Activators:
    """All activators of this installation."""

    def __init__(self, index: Index, namespace: str, token: Path) -> None:
        self._index = index
        self._namespace = namespace
        self._token = token
        self.wake: Callable[[Key], None] = lambda key: None
        self._followed: dict[str, tuple[_Activator, asyncio.Task[None]]] = {}
        self._routes: dict[Key, Activation] = {}
        self._ports: dict[Key, int] = {}
        self._version = 0
        self._sends: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def run(self, cluster: Cluster) -> None:
        """Follow the activators until cancelled."""
        async with aiohttp.ClientSession(trust_env=False) as session:
            self._session = session
            try:
                while True:
                    await self._discover(cluster)
                    await asyncio.sleep(DISCOVERY)
            finally:
                tasks = [task for _, task in self._followed.values()] + list(self._sends)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def view(self, key: Key) -> ActivatorView | None:
        """Tell what the activators know of a model; None while none is heard."""
        heard = [one for one, _ in self._followed.values() if one.version >= 0]
        if not heard:
            return None
        name = "/".join(key)
        numbers = [one.numbers.get(name, {}) for one in heard]
        port = self._port(key)
        return ActivatorView(
            addresses=tuple(sorted(one.address for one in heard if name in one.known)),
            http=port,
            grpc=port + 1,
            waiting=Waiting(
                demand=sum(int(n.get("demand", 0)) for n in numbers),
                active=sum(int(n.get("active", 0)) for n in numbers),
                accepted=float(sum(int(n.get("accepted", 0)) for n in numbers)),
            ),
        )

    def awaited(self, key: Key) -> bool:
        """Tell whether a client waits for a pod of this model."""
        name = "/".join(key)
        return any(one.numbers.get(name, {}).get("demand", 0) for one, _ in self._followed.values())

    def tell(self, key: Key, activation: Activation | None) -> None:
        """See that the activators know of this model, or forget it; never waits."""
        before = self._routes.get(key)
        if activation == before:
            return
        if activation is None:
            self._routes.pop(key, None)
            self._ports.pop(key, None)
        else:
            self._routes[key] = activation
        only_pods = before is not None and activation is not None and before.http == activation.http
        for one, _ in self._followed.values():
            if only_pods and activation is not None and "/".join(key) in one.known:
                self._send(self._put_endpoints(one, key, activation))
            else:
                self._send(self._put_table(one))

    def _send(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    def _port(self, key: Key) -> int:
        """Give the model's port: the one that its slice names, else the first free one after its hash."""
        if key in self._ports:
            return self._ports[key]
        # The Service's own slices carry its labels too, so only the name tells.
        standing = self._index.children(key).get(("EndpointSlice", f"{key[1]}{SLICE_SUFFIX}"))
        if standing is not None and standing.get("ports"):
            self._ports[key] = int(standing["ports"][0]["port"])
            return self._ports[key]
        used = set(self._ports.values())
        start = int.from_bytes(hashlib.sha256("/".join(key).encode()).digest()[:4]) % len(PORTS)
        free = next(p for i in range(len(PORTS)) if (p := PORTS[(start + i) % len(PORTS)]) not in used)
        self._ports[key] = free
        return free

    async def _discover(self, cluster: Cluster) -> None:
        try:
            pods = (await cluster.list(POD, self._namespace, _SELECTOR))["items"]
        except ClusterError as error:
            _LOGGER.warning("the activators cannot be listed: %s", error)
            return
        there = {
            pod["status"]["podIP"]
            for pod in pods
            if pod.get("status", {}).get("podIP") and "deletionTimestamp" not in pod["metadata"]
        }
        for address in there - self._followed.keys():
            one = _Activator(address)
            self._followed[address] = (one, asyncio.ensure_future(self._follow(one)))
        for address in self._followed.keys() - there:
            _, task = self._followed.pop(address)
            task.cancel()
            self._wake_all()

    async def _follow(self, one: _Activator) -> None:
        """Listen to an activator, and again whenever the stream ends."""
        while True:
            try:
                await self._stream(one)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                _LOGGER.info("activator %s is not heard: %s", one.address, error or type(error).__name__)
            if one.version >= 0:
                one.version, one.known = -1, frozenset()
                one.numbers.clear()
                self._wake_all()
            await asyncio.sleep(1.0)

    async def _stream(self, one: _Activator) -> None:
        assert self._session is not None  # run() made it
        url = f"{_base(one)}/v1/events"
        async with self._session.get(url, headers=self._headers(), timeout=_STREAM_TIMEOUT) as response:
            response.raise_for_status()
            await self._put_table(one)
            async for line in response.content:
                self._heard(one, json.loads(line))

    def _heard(self, one: _Activator, event: dict[str, Any]) -> None:
        if event.get("type") == "hello":
            one.numbers = {numbers["key"]: numbers for numbers in event.get("models", ())}
            return
        name = event.get("key")
        if not name:
            return
        before = one.numbers.get(name, {})
        one.numbers[name] = event
        if event.get("demand", 0) != before.get("demand", 0) or bool(event.get("active")) != bool(
            before.get("active")
        ):
            namespace, _, model = name.partition("/")
            self.wake((namespace, model))

    async def _put_table(self, one: _Activator) -> None:
        self._version = max(self._version + 1, int(time.time() * 1000))
        version = self._version
        names = {"/".join(key) for key in self._routes}
        table = {
            "version": version,
            "routes": [_route(key, route) for key, route in sorted(self._routes.items())],
        }
        answer = await self._put(one, "/v1/routes", table)
        if answer is None:
            return
        refused = set(answer.get("errors", {}))
        for name in sorted(refused):
            _LOGGER.warning("activator %s: %s", one.address, answer["errors"][name])
        news = names - refused != one.known or one.version < 0
        one.version, one.known = version, frozenset(names - refused)
        if news:
            self._wake_all()

    async def _put_endpoints(self, one: _Activator, key: Key, activation: Activation) -> None:
        await self._put(one, f"/v1/routes/{key[0]}/{key[1]}/endpoints", {"endpoints": _endpoints(activation)})

    async def _put(self, one: _Activator, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        assert self._session is not None  # run() made it
        try:
            async with self._session.put(
                _base(one) + path, json=body, headers=self._headers(), timeout=_TIMEOUT
            ) as response:
                if response.status == 409:
                    return None
                response.raise_for_status()
                answer = await response.json(content_type=None)
                return answer if isinstance(answer, dict) else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _LOGGER.warning(
                "activator %s did not take %s: %s", one.address, path, error or type(error).__name__
            )
            return None

    def _headers(self) -> dict[str, str]:
        with contextlib.suppress(OSError):
            return {"Authorization": f"Bearer {self._token.read_text().strip()}"}
        return {}

    def _wake_all(self) -> None:
        for key in list(self._routes):
            self.wake(key)


def _base(one: _Activator) -> str:
    host = f"[{one.address}]" if ":" in one.address else one.address
    return f"http://{host}:{CONTROL_PORT}"


def _route(key: Key, activation: Activation) -> dict[str, Any]:
    return {
        "key": "/".join(key),
        "ports": [
            {"name": "http", "listen": activation.http, "target": HTTP_PORT},
            {"name": "grpc", "listen": activation.grpc, "target": GRPC_PORT},
        ],
        "endpoints": _endpoints(activation),
        "readiness": {"mode": "Http", "path": "/v2/health/ready", "port": HTTP_PORT},
    }


def _endpoints(activation: Activation) -> list[dict[str, Any]]:
    # An activator of another version refuses a whole table for a word that it does not know.
    return [
        {"address": e.address, "ready": e.ready, **({"warm": True} if e.warm else {})}
        for e in activation.endpoints
    ]
