"""The operator's side of the process: routes in, events out, health and metrics for the cluster."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from longshore_activator.activator import Activator, StaleVersionError
from longshore_activator.config import Endpoints, Routes
from longshore_activator.events import encode
from longshore_activator.metrics import registry_of

log = logging.getLogger(__name__)

_MAX_BODY = 32 << 20
_MAX_TOKEN = 4096
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TokenError(Exception):
    """The token file cannot be used."""


class Token:
    """A bearer token in a mounted file, read again for each check: a rotated Secret needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.read()

    def read(self) -> bytes:
        """Give the present token.

        Raises:
            TokenError: the file is missing, unreadable, empty or too large.
        """
        try:
            with self._path.open("rb") as file:
                token = file.read(_MAX_TOKEN + 1).strip()
        except OSError as error:
            raise TokenError(
                f"cannot read the token file {self._path}: {error.strerror}; mount the Secret"
            ) from error
        if len(token) < 16 or len(token) > _MAX_TOKEN:
            raise TokenError(
                f"the token in {self._path} must have 16 to {_MAX_TOKEN} bytes: write a longer random one"
            )
        return token

    def matches(self, header: str) -> bool:
        """Compare an Authorization header in constant time; False when the file cannot be read."""
        scheme, _, given = header.partition(" ")
        try:
            expected = self.read()
        except TokenError as error:
            log.error("%s", error)
            return False
        return hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected) and (
            scheme.lower() == "bearer"
        )


def _problem(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = error.error_count() - 1
    return f"{where + ': ' if where else ''}{first['msg']}" + (f" (and {more} more)" if more else "")


class Control:
    """The HTTP application."""

    def __init__(self, activator: Activator, token: Token, identity: str) -> None:
        self._activator = activator
        self._token = token
        self._identity = identity
        self._registry = registry_of(activator)
        self._streams: set[asyncio.Task[None]] = set()

    def application(self) -> web.Application:
        """Build the application; `/v1` needs the token, health and metrics do not."""
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/healthz", self._alive),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/v1/routes", self._describe),
                web.put("/v1/routes", self._put_routes),
                web.put("/v1/routes/{namespace}/{name}/endpoints", self._put_endpoints),
                web.get("/v1/events", self._events),
            ]
        )
        app.on_shutdown.append(self._end_streams)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1/") and not self._token.matches(
            request.headers.get("Authorization", "")
        ):
            return _problem(401, "the bearer token is missing or wrong: send the one of the mounted Secret")
        try:
            return await handler(request)
        except ValidationError as error:
            return _problem(400, _explain(error))
        except StaleVersionError as error:
            return _problem(409, str(error))

    async def _alive(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        if self._activator.draining:
            return web.Response(status=503, text="draining\n")
        if self._activator.version < 0:
            return web.Response(status=503, text="waiting for the operator to send routes\n")
        return web.Response(text="ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _describe(self, request: web.Request) -> web.Response:
        models = [route.snapshot() for route in self._activator.routes]
        return web.json_response({**self._activator.describe(), "models": models})

    async def _put_routes(self, request: web.Request) -> web.Response:
        self._activator.apply(Routes.model_validate_json(await request.read()))
        return web.json_response(self._activator.describe())

    async def _put_endpoints(self, request: web.Request) -> web.Response:
        key = f"{request.match_info['namespace']}/{request.match_info['name']}"
        endpoints = Endpoints.model_validate_json(await request.read()).endpoints
        if not self._activator.set_endpoints(key, endpoints):
            return _problem(404, f"{key} has no route here: send it with PUT /v1/routes first")
        return web.json_response(self._activator.snapshot(key))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        hub = self._activator.hub
        if hub.full:
            return _problem(503, f"{hub.MAX_SUBSCRIPTIONS} event streams are open already: close one")
        response = web.StreamResponse(
            headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
        )
        # Subscribed before the first snapshot is taken: demand that begins in between is not missed.
        subscription = hub.subscribe()
        task = asyncio.current_task()
        if task is not None:
            self._streams.add(task)
        try:
            await response.prepare(request)
            models = [route.snapshot() for route in self._activator.routes]
            hello = {"type": "hello", "activator": self._identity, "models": models}
            await response.write(encode({**hello, **self._activator.describe()}))
            async for line in subscription.lines():
                await response.write(line)
        except ConnectionError:
            pass  # the reader went away
        finally:
            hub.unsubscribe(subscription)
            if task is not None:
                self._streams.discard(task)
        return response

    async def _end_streams(self, app: web.Application) -> None:
        for task in tuple(self._streams):
            task.cancel()
