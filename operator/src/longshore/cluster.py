"""The only file that knows the `kubernetes` client; everything else speaks plain dicts."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import orjson
from aiohttp.client_proto import ResponseHandler
from kubernetes.aio import client, config

from longshore.resources.kinds import Kind
from longshore.resources.names import MANAGER

REQUEST_TIMEOUT = 30.0
"""Seconds for one request, connecting included."""

CONNECTIONS = 16
"""Requests under way at once: the API server's own fairness does the rest."""

WATCH_SECONDS = 300
"""After so long the API server ends a watch, which then begins anew: a balancer may have moved."""

_SILENCE = 90.0
"""Seconds without a word after which a watch is begun anew: the connection may be dead. Where nothing happens
the API server sends no bookmarks either.
"""

_FAREWELL = 5.0
"""Seconds for closing sockets, which needs no answer from anybody."""

_LIMITS = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)

_BUFFER = 2 << 20
"""Bytes that are read ahead of an answer: an event may be long."""

_LARGEST_EVENT = 16 << 20
"""Bytes; etcd keeps no object above 1.5 MiB."""

_WHOLE = "application/json"
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class ClusterError(Exception):
    """The API server refused a request or could not be asked."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 when there was no answer."""
        self.reason = reason
        """The API server's own word: NotFound, Conflict, Invalid, Forbidden, ..."""

    @property
    def refused(self) -> bool:
        """Tell whether the same request will be refused again: it is the object that is wrong."""
        # Server-side apply answers 500 to an unknown field and to a list that names a key twice.
        return self.status in (400, 403, 413, 422) or "failed to create typed patch object" in str(self)


Told = Callable[[str, str], None]
"""Hears of a request before it is sent: its method, and the plural of its kind."""


def _to_nobody(method: str, plural: str) -> None:
    """Tell nobody."""


class _Connector(aiohttp.TCPConnector):
    """A pool of connections of which none outlives it.

    A connection that ends with an answer under way says goodbye by TLS, and its socket stays open until the
    server answers, for up to 30 s; aiohttp no longer knows of it then.
    """

    def __init__(self, limit: int, context: ssl.SSLContext | None) -> None:
        super().__init__(limit=limit, ssl=context or True)
        self._open: dict[asyncio.Future[None], asyncio.Transport] = {}

    async def _create_connection(self, *request: Any) -> ResponseHandler:
        protocol = await super()._create_connection(*request)
        transport, closed = protocol.transport, protocol.closed
        if transport is not None and closed is not None:
            self._open[closed] = transport
            closed.add_done_callback(self._forget)
        return protocol

    async def close(self, *, abort_ssl: bool = True) -> None:
        """Close all connections, those too that await the server's goodbye."""
        await super().close(abort_ssl=abort_ssl)
        for transport in list(self._open.values()):
            transport.abort()
        if self._open:
            await asyncio.wait(self._open, timeout=_FAREWELL)

    def _forget(self, closed: asyncio.Future[None]) -> None:
        if not closed.cancelled():
            closed.exception()  # asyncio complains of an error that nobody looked at
        self._open.pop(closed, None)


class Cluster:
    """A connection to one API server; use as an asynchronous context manager."""

    def __init__(self, api: client.ApiClient, host: str, told: Told = _to_nobody) -> None:
        self._api = api
        self.host = host
        self._told = told
        settings, rest = api.configuration, api.rest_client
        self._session = aiohttp.ClientSession(
            connector=_Connector(settings.connection_pool_maxsize, rest.ssl_context),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_BUFFER,
            # Else aiohttp asks ~/.netrc and the proxy variables in a thread for every request; a proxy comes
            # from the kubeconfig.
            trust_env=False,
        )
        self._way: dict[str, Any] = {"proxy": rest.proxy, "proxy_headers": rest.proxy_headers}
        if settings.tls_server_name:
            self._way["server_hostname"] = settings.tls_server_name

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        told: Told = _to_nobody,
        connections: int = CONNECTIONS,
    ) -> Self:
        """Connect as the pod's ServiceAccount, or as the kubeconfig says; `told` hears of every request.

        `connections` are open at once at most; each watch holds one.

        Raises:
            ClusterError: neither is there or readable.
        """
        settings = client.Configuration()
        settings.connection_pool_maxsize = connections
        try:
            if kubeconfig is None and in_cluster():
                config.load_incluster_config(client_configuration=settings)
            else:
                await config.load_kube_config(
                    config_file=kubeconfig, context=context, client_configuration=settings
                )
        except config.ConfigException as error:
            raise ClusterError(
                0, "NoConfiguration", f"no cluster to talk to: {error}; set KUBECONFIG"
            ) from None
        return cls(client.ApiClient(settings), settings.host, told)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._api.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """Read one object; None when it does not exist."""
        try:
            return await self._request(kind, "GET", kind.path(namespace, name))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self, kind: Kind, namespace: str | None, selector: str = "", metadata_only: bool = False
    ) -> dict[str, Any]:
        """List objects; the answer is the whole List, with its resourceVersion.

        `metadata_only` leaves out spec and status (Kubernetes API concepts, "Metadata-only fetches").
        """
        query = {"labelSelector": selector} if selector else {}
        accept = _METADATA if metadata_only else _WHOLE
        return await self._request(kind, "GET", kind.path(namespace), query, accept=accept)

    async def watch(
        self, kind: Kind, namespace: str | None, selector: str, version: str
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Hear of what changes from a version on, bookmarks included, until the API server ends it or is
        silent.

        Raises:
            ClusterError: as for any request; status 410 where the version is too old to go on from.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        } | ({"labelSelector": selector} if selector else {})
        path = kind.path(namespace)
        limits = aiohttp.ClientTimeout(total=None, connect=REQUEST_TIMEOUT, sock_read=_SILENCE)
        try:
            async with await self._send("GET", path, query, limits=limits) as response:
                if response.status >= 400:
                    raise _error(response.status, "GET", path, await response.read())
                rest = b""
                with contextlib.suppress(aiohttp.SocketTimeoutError):
                    async for chunk in response.content.iter_any():
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            yield _event(path, line)
                        if len(rest) > _LARGEST_EVENT:
                            raise ClusterError(0, "TooLarge", f"an event of {path} has more than 16 MiB")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable("GET", path, error) from error

    async def apply(
        self, kind: Kind, obj: Mapping[str, Any], subresource: str = "", force: bool = True
    ) -> dict[str, Any]:
        """Apply an object on the server as Longshore's one field manager; gives it as it then stands.

        Without `force`, an object whose fields somebody else wrote is a conflict (status 409).
        """
        metadata = obj["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"]) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": MANAGER, "force": "true" if force else "false"}
        return await self._request(kind, "PATCH", path, query, obj, "application/apply-patch+yaml")

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Patch an object by JSON merge patch (RFC 7396); with a resourceVersion in it, only that version."""
        query = {"fieldManager": MANAGER}
        return await self._request(
            kind, "PATCH", kind.path(namespace, name), query, patch, "application/merge-patch+json"
        )

    async def create(self, kind: Kind, obj: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""
        query = {"fieldManager": MANAGER}
        return await self._request(kind, "POST", kind.path(obj["metadata"]["namespace"]), query, obj)

    async def replace(self, kind: Kind, obj: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object; its resourceVersion makes this fail if somebody else was first."""
        metadata = obj["metadata"]
        query = {"fieldManager": MANAGER}
        return await self._request(
            kind, "PUT", kind.path(metadata["namespace"], metadata["name"]), query, obj
        )

    async def delete(
        self, kind: Kind, namespace: str, name: str, uid: str, propagation: str = "Background"
    ) -> None:
        """Delete the object with this uid; one that is gone, or was made anew, counts as deleted."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {"uid": uid},
        }
        try:
            await self._request(kind, "DELETE", kind.path(namespace, name), body=body)
        except ClusterError as error:
            if error.status not in (404, 409):
                raise

    async def _request(
        self,
        kind: Kind,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = _WHOLE,
        accept: str = _WHOLE,
    ) -> dict[str, Any]:
        self._told(method, kind.plural)
        try:
            async with await self._send(method, path, query, body, content_type, accept) as response:
                data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(method, path, error) from error
        if response.status >= 400:
            raise _error(response.status, method, path, data)
        answer: dict[str, Any] = orjson.loads(data)
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = _WHOLE,
        accept: str = _WHOLE,
        limits: aiohttp.ClientTimeout = _LIMITS,
    ) -> aiohttp.ClientResponse:
        # Not by the `kubernetes` client's own request, which takes half as much CPU time again.
        headers = {"Accept": accept, "Content-Type": content_type}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        return await self._session.request(
            method,
            self.host + path + (f"?{urlencode(query)}" if query else ""),
            headers=headers,
            data=None if body is None else orjson.dumps(body),
            timeout=limits,
            **self._way,
        )


def in_cluster() -> bool:
    """Tell whether this process runs in a pod with a ServiceAccount."""
    return _SERVICE_ACCOUNT.exists()


def _unreachable(method: str, path: str, error: Exception) -> ClusterError:
    return ClusterError(
        0, "Unreachable", f"the API server did not answer {method} {path}: {error or type(error).__name__}"
    )


def _event(path: str, line: bytes) -> tuple[str, dict[str, Any]]:
    """Read a line of a watch. Raises ClusterError for one that tells of an error, or cannot be read."""
    try:
        event = orjson.loads(line)
        kind, obj = event["type"], event["object"]
    except (ValueError, KeyError, TypeError):
        raise ClusterError(0, "Unreadable", f"the watch of {path} sent no event: {line[:200]!r}") from None
    if kind == "ERROR":
        raise ClusterError(obj.get("code", 0), obj.get("reason", ""), f"{path}: {obj.get('message', '')}")
    return kind, obj


def _error(status: int, method: str, path: str, data: bytes) -> ClusterError:
    try:
        answer = orjson.loads(data)
        reason, message = answer.get("reason", ""), answer.get("message", "")
    except (ValueError, AttributeError):
        reason, message = "", data[:200].decode(errors="replace")
    return ClusterError(status, reason or str(status), f"{method} {path}: {message or reason or status}")
