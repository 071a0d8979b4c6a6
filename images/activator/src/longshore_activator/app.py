"""The process: arguments, signals, drain."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from aiohttp import web

from longshore_activator.activator import Activator, Settings
from longshore_activator.control import Control, Token, TokenError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    settings: Settings
    control_bind: str
    control_port: int
    token_file: Path
    drain_delay: float
    drain_timeout: float
    identity: str


def _bounded(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return read


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; a mistake ends the process with a sentence that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="longshore-activator",
        description="Holds connections to models at zero, tells the operator, joins them to the first pod.",
    )
    add = parser.add_argument
    defaults = Settings()
    add("--token-file", type=Path, required=True, help="file with the operator's bearer token")
    add("--bind", default=defaults.bind, help="address that model ports listen on (default %(default)s)")
    add("--control-bind", default=defaults.bind, help="address of the control port (default %(default)s)")
    add("--control-port", type=int, default=8090, help="control port; 0 takes a free one")
    add("--max-held", type=int, default=defaults.max_held, help="connections held over all models")
    add("--max-held-bytes", type=int, default=defaults.max_held_bytes, help="bytes held over all models")
    add("--stall-timeout", type=_bounded(1, 86400), default=defaults.stall_seconds, metavar="SECONDS")
    add(
        "--drain-delay",
        type=_bounded(0, 600),
        default=3.0,
        metavar="SECONDS",
        help="on SIGTERM, how long new connections are still taken while the cluster learns of it",
    )
    add(
        "--drain-timeout",
        type=_bounded(0, 86400),
        default=25.0,
        metavar="SECONDS",
        help="on SIGTERM, how long open connections may go on before they are reset",
    )
    add("--identity", default=os.environ.get("POD_NAME") or socket.gethostname(), help="name in events")
    given = parser.parse_args(arguments)
    if not 0 <= given.control_port <= 65535:
        parser.error(f"--control-port {given.control_port} is not between 0 and 65535")
    for name in ("max_held", "max_held_bytes"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return Options(
        settings=Settings(given.bind, given.max_held, given.max_held_bytes, given.stall_timeout),
        control_bind=given.control_bind,
        control_port=given.control_port,
        token_file=given.token_file,
        drain_delay=given.drain_delay,
        drain_timeout=given.drain_timeout,
        identity=given.identity,
    )


def raise_descriptor_limit() -> int:
    """Lift the soft limit of open descriptors to the hard one; two are needed a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    return soft


async def serve(options: Options, token: Token) -> None:
    """Run until SIGTERM or SIGINT, then drain.

    Raises:
        OSError: the control port cannot be bound.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    activator = Activator(options.settings)
    sweeper = loop.create_task(activator.sweep())
    runner = web.AppRunner(
        Control(activator, token, options.identity).application(), access_log=None, handle_signals=False
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, options.control_bind, options.control_port, shutdown_timeout=1.0)
        await site.start()
        for address in runner.addresses:
            log.info("control on %s:%d", address[0], address[1])
        await stop.wait()
        await drain(activator, options)
    finally:
        sweeper.cancel()
        activator.close()
        await runner.cleanup()


async def drain(activator: Activator, options: Options) -> None:
    """Leave without losing what can be finished: not ready first, then no new, then no open ones."""
    activator.draining = True
    log.info(
        "draining: %d held and %d joined connections, %.0f s at most",
        activator.held,
        activator.active,
        options.drain_delay + options.drain_timeout,
    )
    await asyncio.sleep(options.drain_delay)
    activator.stop_accepting()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(options.drain_timeout):
            while activator.held or activator.active:  # noqa: ASYNC110 - an end-of-life poll, no hot path
                await asyncio.sleep(0.05)
    if left := activator.held + activator.active:
        log.warning("drain time is over: %d connections are reset", left)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `longshore-activator`."""
    options = parse(arguments)
    logging.basicConfig(
        level=logging.INFO, format='{"level":"%(levelname)s","message":"%(message)s"}', stream=sys.stderr
    )
    # What is imported lives as long as the process; a collection a few hundred connections costs little.
    gc.freeze()
    gc.set_threshold(10_000)
    limit = raise_descriptor_limit()
    log.info("up to %d descriptors", limit)
    try:
        uvloop.run(serve(options, Token(options.token_file)))
    except TokenError as error:
        sys.exit(f"longshore-activator: {error}")
    except OSError as error:
        sys.exit(
            f"longshore-activator: cannot serve the control port: {error}; choose another --control-port"
        )
