"""A new revision is asked recorded requests before it gets weight, and made ones where there are none."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from longshore.api.rollout import Preflight
from longshore.api.serving import RuntimeName
from longshore.inference import recorded
from longshore.measure import measure
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.rollout.model import PreflightView
from longshore.plan.state import AskedPod, Measurement
from longshore.preflight import preflight
from longshore.resources.names import HTTP_PORT

from e2e.ports import free_ports
from tests.server import models
from tests.server.harness import Server

KEY = "a-key"
FLAGS = ("--name", "mlp", "--mirror-target", "127.0.0.1:9", "--mirror-key", KEY)
STRICT = Preflight(samples=8, max_disagreement=0.0)


@pytest.fixture(autouse=True)
def _addresses_have_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshore.inference._base", lambda address, port: f"http://{address}")


def request(value: float, width: int = 16) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, width], "data": [value] * width}
    return {"inputs": [tensor]}


def asked(address: str) -> AskedPod:
    return AskedPod(address, HTTP_PORT)


def with_samples(model: Path, *requests: dict[str, Any]) -> Path:
    (model / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in requests))
    return model


async def look(stable: Server, canary: Server, settings: Preflight = STRICT) -> PreflightView:
    return await preflight("mlp", "r2", asked(stable.address), asked(canary.address), settings, None, KEY)


async def test_rows_of_the_evaluation_data_are_asked_first(tmp_path: Path) -> None:
    old = models.mlp(tmp_path / "old")
    same = with_samples(models.mlp(tmp_path / "same"), request(0.5), request(-0.5))
    other = with_samples(models.mlp(tmp_path / "other", seed=7), request(0.5), request(-0.5))
    with Server(old, *FLAGS) as stable, Server(same, *FLAGS) as good, Server(other, *FLAGS) as bad:
        passed = await look(stable, good)
        failed = await look(stable, bad)
    assert (passed.verdict, failed.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert passed.text == "0 of 2 answers to requests from the evaluation data differ, 0 failed"
    assert failed.text.startswith("2 of 2 answers to requests from the evaluation data differ")


async def test_without_them_what_clients_asked_lately_is_asked_again(tmp_path: Path) -> None:
    old, new = models.mlp(tmp_path / "old"), models.mlp(tmp_path / "new")
    with Server(old, *FLAGS) as stable, Server(new, *FLAGS) as canary:
        made = await look(stable, canary)
        assert stable.post("/v2/models/mlp/infer", request(0.25))[0] == 200
        found = await look(stable, canary)
        again = await look(stable, canary)
    assert made.text == "0 of 8 answers to requests from the model's signature differ, 0 failed"
    assert found.text == "0 of 1 answers to requests from recent traffic differ, 0 failed"
    assert again == found, "what the operator asks is not taken for traffic"


async def test_rows_that_the_stable_revision_cannot_answer_say_nothing(tmp_path: Path) -> None:
    old = models.mlp(tmp_path / "old")
    wider = with_samples(models.mlp(tmp_path / "new"), request(0.5, width=17))
    with Server(old, *FLAGS) as stable, Server(wider, *FLAGS) as canary:
        found = await look(stable, canary)
    assert "8 answers to requests from the model's signature" in found.text


async def test_no_more_are_asked_than_wished(tmp_path: Path) -> None:
    samples = [request(value / 10) for value in range(10)]
    old, new = models.mlp(tmp_path / "old"), with_samples(models.mlp(tmp_path / "new"), *samples)
    with Server(old, *FLAGS) as stable, Server(new, *FLAGS) as canary:
        found = await look(stable, canary, Preflight(samples=3))
    assert found.text.startswith("0 of 3 answers")


async def test_runtimes_are_compared_on_recorded_requests(tmp_path: Path) -> None:
    # Only requests that were recorded fit: of what is made, no size of the free dimension is 5.
    model = with_samples(models.mlp(tmp_path / "mlp", (16, 8)), request(0.5))
    narrow = models.mlp(tmp_path / "narrow", (4, 8))
    with Server(model, *FLAGS) as first, Server(narrow, *FLAGS) as second:
        names = {RuntimeName.TRITON: second.address, RuntimeName.ONNX_RUNTIME: first.address}
        found = await measure("mlp", Measurement("r1", names, KEY), rounds=1, slice_seconds=0.02)
    assert found.speeds.keys() == {RuntimeName.ONNX_RUNTIME}
    assert "HTTP 400" in found.failures[RuntimeName.TRITON]


@asynccontextmanager
async def pod(status: int, headers: dict[str, str], body: bytes) -> AsyncIterator[str]:
    async def samples(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers, body=body)

    app = web.Application()
    app.router.add_get("/samples", samples)
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (404, {}, b""),
        (200, {}, b'{"inputs": []}\n'),
        (200, {"Longshore-Samples": "somewhere"}, b'{"inputs": []}\n'),
        (200, {"Longshore-Samples": "traffic"}, b""),
        (200, {"Longshore-Samples": "traffic"}, b"a" * (5 << 20)),
        (302, {"Longshore-Samples": "traffic", "Location": "http://127.0.0.1:1/"}, b"x\n"),
    ],
)
async def test_a_pod_that_has_none_or_sends_nonsense_is_left_out(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    async with pod(status, headers, body) as address, aiohttp.ClientSession() as session:
        assert await recorded(session, asked(address), KEY) is None


async def test_a_pod_that_is_gone_is_left_out() -> None:
    async with aiohttp.ClientSession() as session:
        assert await recorded(session, asked(f"127.0.0.1:{free_ports(1)[0]}"), KEY) is None
