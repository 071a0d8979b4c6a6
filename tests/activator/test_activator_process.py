"""The process as the cluster runs it: control API, push of demand, drain and death."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.activator.conftest import ask

TOKEN = "a-token-of-enough-length"


class Process:
    def __init__(self, process: asyncio.subprocess.Process, control: str) -> None:
        self.process = process
        self.control = control

    def session(self, token: str = TOKEN) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self.control, headers={"Authorization": f"Bearer {token}"})

    async def put(self, *routes: dict[str, object], version: int = 1) -> dict[str, dict[str, dict[str, int]]]:
        async with self.session() as session:
            answer = await session.put("/v1/routes", json={"version": version, "routes": list(routes)})
            assert answer.status == 200, await answer.text()
            return await answer.json()


def digits(target: int, *pods: str, ready: bool = False) -> dict[str, object]:
    return {
        "key": "team/digits",
        "ports": [{"name": "http", "listen": 0, "target": target}],
        "endpoints": [{"address": pod, "ready": ready} for pod in pods],
    }


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "longshore_activator", "--token-file", str(token), "--bind", "127.0.0.1",
        "--control-bind", "127.0.0.1", "--control-port", "0", "--drain-delay", "0", "--drain-timeout", "5",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    async with asyncio.timeout(30):
        while b"control on" not in (line := await child.stderr.readline()):
            assert line, "the activator ended at once"
    address = json.loads(line)["message"].removeprefix("control on ")
    yield Process(child, f"http://{address}")
    if child.returncode is None:
        child.kill()
    await child.wait()
    await child.stderr.read()


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, object]]:
    async for line in response.content:
        yield json.loads(line)


async def test_demand_is_pushed_and_a_cold_start_is_answered(process, pod):
    described = await process.put(digits(pod.port))
    port = described["ports"]["team/digits"]["http"]
    async with process.session() as session, asyncio.timeout(15):
        stream = await session.get("/v1/events")
        seen = events(stream)
        hello = await anext(seen)
        assert hello["type"] == "hello"
        assert [m["key"] for m in hello["models"]] == ["team/digits"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"wake up")
        wake = await anext(seen)
        assert (wake["type"], wake["key"], wake["demand"]) == ("wake", "team/digits", 1)
        answer = await session.put(
            "/v1/routes/team/digits/endpoints", json={"endpoints": [{"address": "127.0.0.1"}]}
        )
        assert answer.status == 200
        assert await reader.readexactly(7) == b"WAKE UP"
        async for event in seen:
            if event["type"] == "load" and event["active"] == 1 and event["held"] == 0:
                break
        writer.close()
        stream.close()


async def test_a_warm_copy_answers_at_once_and_a_pod_is_asked_for_all_the_same(process, pod):
    warm = {**digits(pod.port), "endpoints": [{"address": "127.0.0.1", "ready": True, "warm": True}]}
    port = (await process.put(warm))["ports"]["team/digits"]["http"]
    async with process.session() as session, asyncio.timeout(15):
        stream = await session.get("/v1/events")
        seen = events(stream)
        assert (await anext(seen))["models"][0]["demand"] == 0
        assert await ask(port) == b"HELLO"
        wake = await anext(seen)
        assert (wake["type"], wake["demand"], wake["held"]) == ("wake", 1, 0)
        ordinary = {"address": "127.0.0.9", "ready": False}
        answer = await session.put(
            "/v1/routes/team/digits/endpoints", json={"endpoints": [*warm["endpoints"], ordinary]}
        )
        assert answer.status == 200
        async for event in seen:
            if event["type"] == "load" and event["demand"] == 0:
                break
        stream.close()


async def test_a_stream_opened_during_demand_learns_of_it(process, pod):
    port = (await process.put(digits(pod.port)))["ports"]["team/digits"]["http"]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    async with process.session() as session, asyncio.timeout(15):
        while True:
            stream = await session.get("/v1/events")
            hello = await anext(events(stream))
            stream.close()
            if hello["models"][0]["demand"] == 1:
                break
    writer.close()


@pytest.mark.parametrize("token", ["", "wrong-token-of-some-length", TOKEN[:-1]])
async def test_without_the_token_nothing_is_told_or_taken(process, token):
    async with process.session(token) as session:
        for method, path in (("GET", "/v1/routes"), ("PUT", "/v1/routes"), ("GET", "/v1/events")):
            answer = await session.request(method, path)
            assert answer.status == 401
            assert "token" in (await answer.json())["error"]
        assert (await session.get("/healthz")).status == 200


async def test_bad_tables_are_refused_with_a_reason_and_change_nothing(process, pod):
    await process.put(digits(pod.port), version=5)
    bad = [
        ({"version": 6, "routes": [digits(0)]}, 400, "target"),
        ({"version": 6, "routes": [digits(1, "example.com")]}, 400, "IPv4"),
        ({"version": 6, "routes": [digits(1), digits(1)]}, 400, "listed twice"),
        ({"version": 6, "routes": [{**digits(1), "colour": "red"}]}, 400, "colour"),
        ({"version": 4, "routes": []}, 409, "older"),
    ]
    async with process.session() as session:
        for body, status, words in bad:
            answer = await session.put("/v1/routes", json=body)
            assert answer.status == status
            assert words in (await answer.json())["error"]
        answer = await session.put("/v1/routes", data=b"{not json")
        assert answer.status == 400
        state = await (await session.get("/v1/routes")).json()
        assert (state["version"], len(state["models"])) == (5, 1)
        missing = await session.put("/v1/routes/team/nothing/endpoints", json={"endpoints": []})
        assert missing.status == 404


async def test_ready_only_with_routes_and_metrics_tell_the_counts(process, pod):
    async with process.session("") as session:
        assert (await session.get("/readyz")).status == 503
        port = (await process.put(digits(pod.port, "127.0.0.1", ready=True)))["ports"]["team/digits"]["http"]
        assert (await session.get("/readyz")).status == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"X"
        text = await (await session.get("/metrics")).text()
        assert 'longshore_activator_spliced_total{model="team/digits"} 1.0' in text
        assert 'longshore_activator_active_connections{model="team/digits"} 1.0' in text
        writer.close()


async def test_sigterm_finishes_open_and_waiting_connections(process, pod):
    port = (await process.put(digits(pod.port)))["ports"]["team/digits"]["http"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"waiting")
    async with process.session() as session, asyncio.timeout(15):
        while (await (await session.get("/v1/routes")).json())["models"][0]["demand"] == 0:
            pass
        process.process.send_signal(signal.SIGTERM)
        while (await session.get("/readyz")).status != 503:
            pass
        await session.put("/v1/routes/team/digits/endpoints", json={"endpoints": [{"address": "127.0.0.1"}]})
        assert await reader.readexactly(7) == b"WAITING"
        writer.close()
        assert await process.process.wait() == 0


async def test_killed_process_resets_its_clients(process, pod):
    described = await process.put(digits(pod.port, "127.0.0.1", ready=True))
    reader, writer = await asyncio.open_connection("127.0.0.1", described["ports"]["team/digits"]["http"])
    writer.write(b"x")
    assert await reader.readexactly(1) == b"X"
    os.kill(process.process.pid, signal.SIGKILL)
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(5):
            await reader.read()
    writer.close()


async def test_missing_or_short_token_file_ends_with_a_sentence(tmp_path):
    short = tmp_path / "short"
    short.write_text("abc")
    for path, words in ((tmp_path / "none", "cannot read"), (short, "16 to")):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "longshore_activator", "--token-file", str(path),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, error = await child.communicate()
        assert child.returncode == 1
        assert words in error.decode().splitlines()[-1]
