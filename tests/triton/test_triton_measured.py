"""`runtime: Auto` measures the real servers: the same requests to both, in turn."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from longshore.api.serving import RuntimeName
from longshore.measure import Measurer, measure
from longshore.plan.state import Measurement
from longshore.resources.names import Owner
from longshore.senses import Senses

from e2e.ports import free_ports
from tests.server import models
from tests.server.harness import Server
from tests.triton.harness import Triton

ONNX, TRITON = RuntimeName.ONNX_RUNTIME, RuntimeName.TRITON
KEY = ("team", "mlp")
OWNER = Owner(*KEY, "uid")


@pytest.fixture(autouse=True)
def ports_in_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both servers run on one host here: their addresses name the port."""
    monkeypatch.setattr("longshore.inference._base", lambda address, port: f"http://{address}")


@pytest.fixture
async def measurer() -> AsyncIterator[Measurer]:
    made = Measurer(Senses(), rounds=1, slice_seconds=0.05)
    yield made
    await asyncio.wait_for(made.close(), 5)


async def ended(measurer: Measurer, wanted: Measurement) -> None:
    done = asyncio.Event()
    measurer.wake = lambda key: done.set()
    measurer.measure(OWNER, wanted)
    measurer.measure(OWNER, wanted)
    async with asyncio.timeout(60):
        await done.wait()


async def test_both_runtimes_are_timed_on_the_same_requests(tmp_path: Path, measurer: Measurer) -> None:
    model = models.mlp(tmp_path / "mlp")
    with Server(model, "--name", "mlp") as server, Triton(model, tmp_path, name="mlp") as triton:
        wanted = Measurement("r1", {ONNX: f"127.0.0.1:{server.http_port}", TRITON: triton.address}, "")
        for _ in range(3):
            await ended(measurer, wanted)
            found = measurer._senses.measured[KEY]
            if not found.error:
                break
            measurer._tried.clear()  # as time does: a busy machine may answer too late
        assert (found.revision, found.failures, found.error) == ("r1", {}, "")
        assert found.speeds.keys() == {ONNX, TRITON}
        for speed in found.speeds.values():
            assert 0 < speed.p50 <= speed.p95
            assert speed.throughput > 0
        measurer.measure(OWNER, wanted)
        assert not measurer._running, "what is known is not measured again"
        measurer.measure(OWNER, None)
        assert KEY not in measurer._senses.measured


async def test_one_that_fails_where_the_other_answers_is_named(tmp_path: Path) -> None:
    names = {}
    with (
        Server(models.mlp(tmp_path / "wide", (16, 8)), "--name", "mlp") as wide,
        Server(models.mlp(tmp_path / "narrow", (4, 8)), "--name", "mlp") as narrow,
    ):
        names = {ONNX: f"127.0.0.1:{wide.http_port}", TRITON: f"127.0.0.1:{narrow.http_port}"}
        found = await measure("mlp", Measurement("r1", names, ""), rounds=1, slice_seconds=0.02)
    assert found.speeds.keys() == {ONNX}
    assert "fails on a request that another answers: HTTP 400" in found.failures[TRITON]


async def test_a_pod_that_is_gone_is_an_error_that_is_tried_again(measurer: Measurer) -> None:
    (port,) = free_ports(1)
    wanted = Measurement("r1", dict.fromkeys((ONNX, TRITON), f"127.0.0.1:{port}"), "")
    await ended(measurer, wanted)
    assert measurer._senses.measured[KEY].error
    measurer.measure(OWNER, wanted)
    assert not measurer._running, "not at once"
    measurer._tried.clear()
    await ended(measurer, wanted)
