"""One tick of a whole operator: 3,000 pods asked over HTTP, their answers read, 1,000 models decided.

The pods are one small server on the second core that listens on as many loopback addresses; the operator's
own scraper and planner run on the first.
"""

import asyncio
import multiprocessing
import os
import time
from dataclasses import fields, replace
from multiprocessing.connection import Connection
from typing import cast

import uvloop
from longshore.api import Spec
from longshore.plan.scaling import Decision, Observation, PodSample, RevisionLoad, State, policy_of, step
from longshore.plan.telemetry import PodReading
from longshore.runtimes.onnxruntime import OnnxRuntime
from longshore.scrape import Scraper, ScrapeTarget

from bench.common import Row, median

MODELS, PODS = 1000, 3
_TICKS = 8
_WARM_UP = 2
_BEGIN = time.time()
_COUNTED = tuple(f.name for f in fields(PodSample) if f.name not in ("pod", "revision", "at"))


class _Pod(asyncio.Protocol):
    """Answers every request with counters that rise with time, in the size of a real pod's answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        count = (time.time() - _BEGIN) * 40
        names = (
            ("longshore_requests_total", count),
            ("nv_inference_request_success", count),
            ("nv_inference_count", count),
            ("nv_inference_exec_count", count / 2),
            ("nv_inference_queue_duration_us", count * 1500),
            ("nv_inference_request_duration_us", count * 9000),
            ("longshore_queue_time_seconds_total", count * 0.0015),
            ("longshore_compute_time_seconds_total", count / 2 * 0.01),
            ("longshore_requests_over_objective_total", 0),
            ("nv_inference_pending_request_count", 0),
            ("longshore_requests_in_flight", 1),
            ("longshore_streams", 0),
            ("longshore_workers_ready", 1),
            ("process_cpu_seconds_total", count * 0.006),
        )
        lines = [f'{name}{{model="digits",version="1"}} {value}' for name, value in names]
        for histogram in range(6):
            lines += [
                f'longshore_h{histogram}_seconds_bucket{{model="digits",version="1",le="{i}"}} {count}'
                for i in range(17)
            ]
        body = ("\n".join(lines) + "\n").encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def _serve(told: Connection) -> None:
    os.sched_setaffinity(0, {1})

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Pod, "0.0.0.0", 0, backlog=4096)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def _spec() -> Spec:
    return Spec.model_validate(
        {
            "model": {"uri": "oci://registry.example/models/bench:1"},
            "serving": {"latencyObjective": "50ms"},
            "scaling": {"min": 1, "max": 20, "forecast": {}},
        }
    )


def _sample(reading: PodReading) -> PodSample:
    values = {name: reading.values.get(name) for name in _COUNTED}
    return PodSample(pod=reading.pod, revision=reading.revision, at=reading.at, **values)


async def _ticks(port: int) -> tuple[list[float], list[float], list[float], int]:
    source = replace(OnnxRuntime().metrics, port=port)
    targets = tuple(
        ScrapeTarget(f"m{m}-{p}", f"u{m}-{p}", "a", f"127.{1 + p}.{m // 250}.{1 + m % 250}", "0", source)
        for m in range(MODELS)
        for p in range(PODS)
    )
    spec = _spec()
    states = [State() for _ in range(MODELS)]
    scraper = Scraper()
    whole: list[float] = []
    spent: list[float] = []
    deciding: list[float] = []
    unanswered = 0
    try:
        for _ in range(_TICKS):
            begin, used = time.perf_counter(), time.process_time()
            telemetry = await scraper.read(targets)
            read = time.perf_counter()
            unanswered += len(telemetry.unanswered)
            by_model: dict[str, list[PodReading]] = {}
            for reading in telemetry.readings:
                by_model.setdefault(reading.pod.rpartition("-")[0], []).append(reading)
            decisions: list[Decision] = []
            for m in range(MODELS):
                readings = by_model.get(f"m{m}", [])
                seen = Observation(
                    now=telemetry.at,
                    revisions=(RevisionLoad("a", PODS, PODS),),
                    samples=tuple(_sample(reading) for reading in readings),
                    ready_pods=frozenset(f"m{m}-{p}" for p in range(PODS)),
                )
                states[m], decision = step(policy_of(spec), states[m], seen)
                decisions.append(decision)
            end = time.perf_counter()
            whole.append(end - begin)
            spent.append(time.process_time() - used)
            deciding.append(end - read)
            await asyncio.sleep(max(0.0, 2.0 - (end - begin)))
    finally:
        await scraper.close()
    return whole[_WARM_UP:], spent[_WARM_UP:], deciding[_WARM_UP:], unanswered


def rows() -> tuple[Row, ...]:
    """Measure; the first ticks, which open the connections and fill the windows, do not count."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    before = os.sched_getaffinity(0)
    try:
        if not ours.poll(30):
            raise RuntimeError("the simulated pods did not start within 30 s")
        port = ours.recv()
        os.sched_setaffinity(0, {0})
        whole, spent, deciding, unanswered = uvloop.run(_ticks(port))
    finally:
        os.sched_setaffinity(0, before)
        server.terminate()
        server.join(10)
    note = f"{MODELS} models x {PODS} pods, one core, connections open; {unanswered} answers missed"
    return (
        Row("tick-1000-models", median(whole), "s", "<=", 2.0, f"{note}; slowest {max(whole):.2f} s"),
        Row("tick-1000-models-cpu", median(spent), "s", "<=", 2.0, "of it: processor time of the operator"),
        Row("tick-1000-models-deciding", median(deciding), "s", "<=", 2.0, "of it: the planner alone"),
    )
