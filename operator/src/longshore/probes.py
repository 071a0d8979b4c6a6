"""What the operator answers by HTTP: is it alive, does it lead, what has it done."""

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import generate_latest

from longshore.metrics import Metrics

STUCK = 180.0
"""Seconds after which a key that is still waited for or worked on means that the queue stands still."""


@contextlib.asynccontextmanager
async def serve_probes(
    host: str, port: int, metrics: Metrics, stuck_for: Callable[[], float], depth: Callable[[], int]
) -> AsyncIterator[int]:
    """Serve /healthz and /metrics while the context lasts; gives the port (0 asks for a free one)."""

    async def healthz(_: web.Request) -> web.Response:
        age = stuck_for()
        if age > STUCK:
            return web.Response(status=503, text=f"the queue has not moved for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def show_metrics(_: web.Request) -> web.Response:
        metrics.depth.set(depth())
        metrics.stuck.set(stuck_for())
        return web.Response(
            body=generate_latest(metrics.registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", show_metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
