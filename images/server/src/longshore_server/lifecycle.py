"""One worker's life: listen, load, warm up, serve, drain, end."""

import asyncio
import contextlib
import ctypes
import gc
import importlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvloop

from longshore_server.app import App
from longshore_server.artifact import Artifact
from longshore_server.auth import ApiKeys
from longshore_server.batcher import Batcher, BatchingOptions
from longshore_server.config import Settings
from longshore_server.errors import ExitCode, cannot_listen
from longshore_server.httpserver import HttpServer
from longshore_server.inference import Admission
from longshore_server.loading import Loaded, load
from longshore_server.metrics import Metrics, SharedMemory, escape_label
from longshore_server.mirror import LARGEST, Mirror
from longshore_server.mirrorclient import Target
from longshore_server.observing import observers
from longshore_server.samples import Samples
from longshore_server.served import ServedModel
from longshore_server.session import SessionOptions, runtime_version
from longshore_server.tls import Certificates

if TYPE_CHECKING:
    from longshore_server.grpcserver import GrpcServer

_log = logging.getLogger(__name__)

_SWEEP_SECONDS = 1.0
_RELOAD_SECONDS = 5.0
_QUIET_POLL = 0.02
# Seconds after readiness until gRPC's modules are imported for nobody in particular, and the collector runs.
_SETTLE_SECONDS = 1.0
# How long the end may wait for a collector to take the last spans.
_LAST_SPANS = 2.0
# malloc.h; blocks up to 32 MiB, the largest that glibc takes on 64-bit systems, come from the heap.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 << 20
_BACKLOG = 4096
# Runs up to this many seconds stay on the event loop's thread. With one processor a hand-over to another
# thread only adds to them; with more, the loop can read the next requests meanwhile.
_INLINE_ONE_PROCESSOR = 0.02
_INLINE = 0.0005


def serve(settings: Settings, artifact: Artifact, memory: SharedMemory, worker: int, threads: int) -> int:
    """Run one worker until it is told to stop; returns its exit code. Raises `StartupError`."""
    _keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Worker(settings, artifact, memory, worker, threads).run())


class Worker:
    """The parts of one serving process."""

    def __init__(
        self, settings: Settings, artifact: Artifact, memory: SharedMemory, worker: int, threads: int
    ) -> None:
        """Nothing is opened yet, but key files are read. Raises `StartupError`."""
        self._settings = settings
        self._artifact = artifact
        self._threads = threads
        self._share_port = memory.workers > 1
        self._parent = os.getppid()
        self._metrics = Metrics(
            memory,
            worker,
            settings.latency_objective_ms / 1e3,
            f'model="{escape_label(settings.name)}",version="{escape_label(settings.version)}"',
            f'candidate="{escape_label(artifact.chosen)}",runtime="{escape_label(runtime_version())}",'
            f'provider="{",".join(settings.providers)}"',
        )
        self._keys = ApiKeys(settings.api_key_file) if settings.api_key_file else None
        self._certificates = (
            Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
            if settings.tls_certificate and settings.tls_key
            else None
        )
        self._app = App(
            settings.name,
            settings.version,
            self._metrics,
            self._keys,
            settings.limits.body_bytes,
            settings.mirror_key,
        )
        self._mirror: Mirror | None = None
        self._samples = Samples(artifact.samples) if settings.mirror_key else None
        self._grpc: GrpcServer | None = None
        self._observers = observers(settings)
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> int:
        """The whole life. Raises `StartupError`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        http = HttpServer(self._app, self._settings.limits, self._metrics, loop)
        http.observer = self._observers
        listeners = [await self._listen(http, self._bind(self._settings.http_port), ["http/1.1"])]
        # Bound at once, so that a client may connect; who speaks to it is imported when one does.
        grpc_socket = self._bind(self._settings.grpc_port) if self._settings.grpc_port else None
        sweeper = asyncio.create_task(self._sweep(http))
        try:
            loading = asyncio.ensure_future(loop.run_in_executor(None, self._load))
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                return ExitCode.OK  # told to stop before there was anything to drain
            served = self._serve(loading.result(), loop)
            settling = asyncio.create_task(self._settle(grpc_socket, served, loop, listeners))
            await asyncio.wait((settling, stopped), return_when=asyncio.FIRST_COMPLETED)
            if settling.done():
                settling.result()
            await stopped
            settling.cancel()
            return await self._drain(http, served)
        finally:
            sweeper.cancel()
            for listener in listeners:
                listener.close()
            if self._mirror is not None:
                self._mirror.close()
            if self._observers is not None:
                self._observers.close(_LAST_SPANS)

    def _load(self) -> Loaded:
        options = SessionOptions(self._settings.providers, self._threads)
        return load(
            self._artifact,
            options,
            self._settings.batching,
            self._settings.max_batch_size,
            self._metrics.escalated,
        )

    def _serve(self, loaded: Loaded, loop: asyncio.AbstractEventLoop) -> ServedModel:
        settings = self._settings
        options = BatchingOptions(
            objective=settings.latency_objective_ms / 1e3,
            max_rows=settings.max_batch_size,
            queue_size=settings.queue_size,
            inline=_INLINE_ONE_PROCESSOR if self._threads == 1 else _INLINE,
        )
        if settings.mirror_target is not None:
            target = Target(*settings.mirror_target, settings.name, settings.mirror_key, LARGEST)
            self._mirror = Mirror(target, loaded.engine.signature, self._metrics)
        served = ServedModel(
            name=settings.name,
            version=settings.version,
            admission=Admission(
                loaded.engine.signature, loaded.batched, settings.limits.tensor_rank, loaded.cost
            ),
            batcher=Batcher(loaded.engine, options, self._metrics, loop, self._mirror, self._samples),
            metrics=self._metrics,
            max_batch_size=settings.max_batch_size if loaded.batched else 0,
            ready=True,
        )
        self._app.serve(served, self._samples)
        self._metrics.ready(True)
        _log.info("ready", extra={"fields": {"model": served.name, "batched": loaded.batched}})
        return served

    async def _settle(
        self,
        grpc_socket: socket.socket | None,
        served: ServedModel,
        loop: asyncio.AbstractEventLoop,
        listeners: list[asyncio.Server],
    ) -> None:
        """Do what the first answer does not wait for; whoever speaks gRPC gets it at once."""
        if grpc_socket is None:
            await asyncio.sleep(_SETTLE_SECONDS)
        else:
            await _until_connected(grpc_socket, loop, _SETTLE_SECONDS)
            listeners.append(await self._serve_grpc(grpc_socket, served, loop))
        # What exists by now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        gc.enable()

    async def _serve_grpc(
        self, bound: socket.socket, served: ServedModel, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Server:
        # Protobuf and HPACK's tables take a tenth of the start: REST waits neither before nor meanwhile.
        await loop.run_in_executor(None, _import_grpc)
        from longshore_server.grpcserver import GrpcServer
        from longshore_server.grpcservice import GrpcService

        service = GrpcService(served.name, served.version, self._metrics, self._keys)
        service.serve(served)
        self._grpc = GrpcServer(service, self._settings.limits, self._metrics, loop)
        self._grpc.observer = self._observers
        return await self._listen(self._grpc, bound, ["h2"])

    def _bind(self, port: int) -> socket.socket:
        """A listening socket. Raises `StartupError`."""
        host = self._settings.host
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._share_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            bound.bind((host, port))
            bound.listen(_BACKLOG)
        except OSError as error:
            bound.close()
            raise cannot_listen(host, port, error) from None
        return bound

    async def _listen(
        self, factory: Callable[[], asyncio.BaseProtocol], bound: socket.socket, protocols: list[str]
    ) -> asyncio.Server:
        context = self._certificates.context(protocols) if self._certificates else None
        server = await asyncio.get_running_loop().create_server(
            factory, sock=bound, backlog=_BACKLOG, ssl=context
        )
        address = bound.getsockname()
        fields = {"address": address[0], "port": address[1], "for": protocols[0]}
        _log.info("listening", extra={"fields": fields})
        return server

    def _told_to_stop(self) -> None:
        if self._stop.is_set():
            self._stop_now.set()  # the second signal: no more waiting for others to notice
        self._stop.set()

    async def _drain(self, http: HttpServer, served: ServedModel) -> int:
        """Not ready, then served on for a while, then closing connections; ends when all work is done.

        The wait is for those who route here: endpoints are withdrawn from them one after the other. Every
        answer in this time closes its connection, so what is idle at the end has long been unused: closing
        it then does not cross a request that is on its way.
        """
        settings = self._settings
        started = time.monotonic()
        served.draining = True
        self._metrics.ready(False)
        _log.info("draining", extra={"fields": {"in_flight": served.batcher.in_flight}})
        http.begin_drain()
        with contextlib.suppress(TimeoutError):
            delay = min(settings.drain_delay, settings.grace_period)
            await asyncio.wait_for(self._stop_now.wait(), delay)
        http.drain()
        if self._grpc is not None:
            self._grpc.drain()
        code = ExitCode.OK
        try:
            left = settings.grace_period - (time.monotonic() - started)
            await asyncio.wait_for(self._until_quiet(http, served), max(left, 0.1))
        except TimeoutError:
            _log.error("the grace period is over with %d requests in flight", served.batcher.in_flight)
            code = ExitCode.GRACE_PERIOD_OVER
        served.batcher.close()
        _log.info("ended", extra={"fields": {"seconds": round(time.monotonic() - started, 3)}})
        return code

    async def _until_quiet(self, http: HttpServer, served: ServedModel) -> None:
        while (  # noqa: ASYNC110 - no one event tells all of it
            served.batcher.in_flight
            or http.connections
            or (self._grpc is not None and self._grpc.connections)
        ):
            await asyncio.sleep(_QUIET_POLL)

    async def _sweep(self, http: HttpServer) -> None:
        """Once a second: end slow clients, read changed files, end with a parent that is gone."""
        reloaded = time.monotonic()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            http.sweep(now)
            if self._grpc is not None:
                self._grpc.sweep(now)
            self._metrics.refresh_process()
            if now - reloaded >= _RELOAD_SECONDS:
                reloaded = now
                if self._certificates is not None:
                    self._certificates.reload()
                if self._keys is not None and self._keys.reload():
                    http.forget_heads()
                    if self._grpc is not None:
                        self._grpc.forget_headers()
            if self._share_port and os.getppid() != self._parent:
                _log.error("the parent process is gone: ending")
                self._told_to_stop()


def _import_grpc() -> None:
    """Import what speaks gRPC, on whichever thread this is called."""
    importlib.import_module("longshore_server.grpcserver")
    importlib.import_module("longshore_server.grpcservice")


async def _until_connected(bound: socket.socket, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Wait until a client has connected to a socket that nobody accepts on yet, for at most `seconds`."""
    connected = asyncio.Event()
    loop.add_reader(bound, connected.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await connected.wait()
    finally:
        loop.remove_reader(bound)


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of large tensors instead of giving each back to the kernel and faulting it
    in anew.

    Where the C library is another one, nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
