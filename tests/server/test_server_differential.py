"""The fast paths against plain implementations, on generated requests cut at every byte."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from tests.server import models
from tests.server.inprocess import LIMITS, InProcess, Transport
from tests.server.reference import Reference

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
floats = st.floats(-100, 100, width=32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.two_inputs(tmp_path_factory.mktemp("d") / "pair")


@pytest.fixture(scope="module")
def reference(pair: Path) -> Reference:
    return Reference(pair)


@st.composite
def requests(draw: Any) -> bytes:
    rows = draw(st.integers(1, 3))
    values = {
        "a": ("FP32", np.array(draw(st.lists(floats, min_size=rows * 4, max_size=rows * 4)), np.float32)),
        "b": (
            "INT64",
            np.array(
                draw(st.lists(st.integers(-(2**40), 2**40), min_size=rows * 4, max_size=rows * 4)), np.int64
            ),
        ),
    }
    inputs, blobs = [], b""
    for name in draw(st.permutations(["a", "b"])):
        datatype, array = values[name]
        tensor: dict[str, Any] = {"name": name, "shape": [rows, 4], "datatype": datatype}
        style = draw(st.sampled_from(["flat", "nested", "binary"]))
        if style == "binary":
            tensor["parameters"] = {"binary_data_size": array.nbytes}
            blobs += array.tobytes()
        else:
            tensor["data"] = array.tolist() if style == "flat" else array.reshape(rows, 4).tolist()
        inputs.append(tensor)
    document: dict[str, Any] = {"inputs": inputs}
    if draw(st.booleans()):
        document["id"] = draw(st.text(max_size=5))
    if draw(st.booleans()):
        document["parameters"] = {"binary_data_output": draw(st.booleans())}
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(["total", "twice"]), min_size=1, max_size=2, unique=True))
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": draw(st.booleans())}} for name in names
        ]
    text = orjson.dumps(document)
    lines = ["POST /v2/models/pair/infer HTTP/1.1", "Host: a"]
    if blobs or draw(st.booleans()):
        lines.append(f"Inference-Header-Content-Length: {len(text)}")
    if draw(st.booleans()):
        lines.append("Connection: close")
    body = text + blobs
    if draw(st.booleans()):
        lines.append(f"Content-Length: {len(body)}")
    else:
        lines.append("Transfer-Encoding: chunked")
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
        parts = [
            body[low:high] for low, high in zip([0, *cuts], [*cuts, len(body)], strict=True) if low < high
        ]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@QUICK
@given(data=requests(), cut=st.floats(0, 1))
def test_http_answers_like_the_reference(pair: Path, reference: Reference, data: bytes, cut: float) -> None:
    async def both() -> None:
        wanted = reference.http(data)
        at = int(cut * len(data))
        for pieces in ((data,), (data[:at], data[at:])):
            assert (await InProcess(pair).http_answer(*pieces))[0] == wanted

    asyncio.run(both())


CHUNKED = (
    b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\n" + b'{"inp' + b'\r\n3\r\nuts\r\n1\r\n"\r\n3\r\n:[]\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n'
)


async def test_every_cut_of_a_conversation_gives_the_same_bytes(pair: Path) -> None:
    array = np.arange(4, dtype=np.float32)
    text = orjson.dumps(
        {
            "inputs": [
                {"name": "a", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
                {"name": "b", "shape": [1, 4], "datatype": "INT64", "data": [1, 2, 3, 4]},
            ]
        }
    )
    body = text + array.tobytes()
    infer = (
        b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nInference-Header-Content-Length: %d\r\n"
        b"Content-Length: %d\r\n\r\n" % (len(text), len(body))
    ) + body
    conversation = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n" + infer + CHUNKED + infer
    whole = await InProcess(pair).http_answer(conversation)
    assert whole[0].count(b"HTTP/1.1 200 OK") == 3
    assert whole[0].count(b"HTTP/1.1 400 Bad Request") == 1
    server = InProcess(pair)
    for at in range(1, len(conversation)):
        connection, transport = server.http(), Transport()
        connection.connection_made(transport)
        for piece in (conversation[:at], conversation[at:]):
            server.http_feed(connection, transport, piece)
            await server.settle()
        await server.settle()
        for _ in range(8):
            await server.settle()
        assert bytes(transport.written) == whole[0], at
        connection.connection_lost(None)
    server.batcher.close()


async def test_what_follows_a_large_body_is_the_next_request(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "wide", TensorProto.FLOAT)
    bodies = []
    for value in (1.5, 2.5):
        array = np.full((1, 8192), value, np.float32)
        tensor = {"name": "x", "shape": [1, 8192], "datatype": "FP32"}
        text = orjson.dumps(
            {
                "inputs": [tensor | {"parameters": {"binary_data_size": array.nbytes}}],
                "parameters": {"binary_data_output": True},
            }
        )
        bodies.append((len(text), text + array.tobytes()))
    asks = [
        b"POST /v2/models/wide/infer HTTP/1.1\r\nHost: a\r\nInference-Header-Content-Length: %d\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (length, len(body), body)
        for length, body in bodies
    ]
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    conversation = asks[0] + asks[1] + live
    end = len(asks[0])
    for cut in (None, end - 1, end, end + 1, end + 2, end + 16385, len(conversation) - len(live) + 1):
        server, transport = InProcess(model), Transport()
        connection = server.http()
        connection.connection_made(transport)
        for piece in (conversation[:cut], conversation[cut:] if cut else b""):
            server.http_feed(connection, transport, piece)
        for _ in range(4):
            await server.settle()
        parts = bytes(transport.written).split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert len(parts) == 3, cut
        for part, value in zip(parts, (1.5, 2.5), strict=False):
            assert part.endswith(np.full(8192, value, np.float32).tobytes()), cut
        connection.connection_lost(None)
        server.batcher.close()


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5 5\r\n",
        b"Content-Length: \r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Content-Length: 5\r\n folded\r\n",
        b"X: a\r\n\tb\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\nX: y\r\n",
        b"Content-Length: 5\rX: y\r\n",
        b"Content Length: 5\r\n",
        b"X: a\0b\r\nContent-Length: 5\r\n",
        b"Host: b\r\nContent-Length: 5\r\n",
    ],
)
async def test_smuggling_is_refused_and_the_connection_closed(pair: Path, head: bytes) -> None:
    data = b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n12345GET /v2 HTTP/1.1\r\n\r\n"
    answer, closed = await InProcess(pair).http_answer(data)
    assert answer.split(b" ", 2)[1] in (b"400", b"501", b"413")
    assert answer.count(b"\r\n\r\n") == 1
    assert closed


@pytest.mark.parametrize(
    "body",
    [
        b"5;x=y\r\n12345\r\n0\r\n\r\n",
        b"5\n12345\r\n0\r\n\r\n",
        b"+5\r\n12345\r\n0\r\n\r\n",
        b"0x5\r\n12345\r\n0\r\n\r\n",
        b"-1\r\n12345\r\n0\r\n\r\n",
        b"5\r\n123456\r\n0\r\n\r\n",
        b"fffffffff\r\n1",
        b"\r\n12345\r\n0\r\n\r\n",
        b"g\r\n",
        b"5" * 300,
    ],
)
async def test_bad_chunks_are_refused_and_the_connection_closed(pair: Path, body: bytes) -> None:
    head = b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer, closed = await InProcess(pair).http_answer(head + body)
    assert answer.split(b" ", 2)[1] in (b"400", b"413")
    assert answer.count(b"\r\n\r\n") == 1
    assert closed


async def test_heads_and_bodies_above_the_limits_are_refused(pair: Path) -> None:
    head = b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 5000
    assert (await InProcess(pair).http_answer(head))[0].startswith(b"HTTP/1.1 431")
    head = b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n"
    answer, closed = await InProcess(pair).http_answer(head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert closed
    whole = b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
    small = InProcess(pair, dataclasses.replace(LIMITS, body_bytes=1000))
    assert (await small.http_answer(whole))[0].startswith(b"HTTP/1.1 413")
    headers = b"".join(b"X-%d: a\r\n" % number for number in range(101))
    assert (await InProcess(pair).http_answer(b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n"))[
        0
    ].startswith(b"HTTP/1.1 4")


async def test_a_tensor_of_too_many_dimensions_is_refused(pair: Path) -> None:
    limits = dataclasses.replace(LIMITS, tensor_rank=3)
    tensor = {"name": "a", "shape": [1, 1, 1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    other = {"name": "b", "shape": [1, 4], "datatype": "INT64", "data": [1, 2, 3, 4]}
    body = orjson.dumps({"inputs": [tensor, other]})
    head = b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer, closed = await InProcess(pair, limits).http_answer(head + body)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"rank 4, the limit is 3" in answer
    assert not closed


async def test_slow_clients_are_cut_off(pair: Path) -> None:
    import time

    server = InProcess(pair)
    for begun in (
        b"GET /v2 HT",
        b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n123",
    ):
        connection, transport = server.http(), Transport()
        connection.connection_made(transport)
        server.http_feed(connection, transport, begun)
        server.http.sweep(time.monotonic() + 5)
        assert not transport.written
        server.http.sweep(time.monotonic() + 11)
        assert transport.written.startswith(b"HTTP/1.1 408")
        server.http.sweep(time.monotonic() + 30)
        assert transport.closing
        connection.connection_lost(None)
    idle, transport = server.http(), Transport()
    idle.connection_made(transport)
    server.http.sweep(time.monotonic() + 50)
    assert not transport.closing
    server.http.sweep(time.monotonic() + 101)
    assert transport.closing
    idle.connection_lost(None)
    server.batcher.close()


async def test_a_full_queue_answers_503_with_retry_after(pair: Path) -> None:
    body = orjson.dumps(
        {
            "inputs": [
                {"name": "a", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]},
                {"name": "b", "shape": [1, 4], "datatype": "INT64", "data": [1, 2, 3, 4]},
            ]
        }
    )
    ask = b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    server = InProcess(pair, queue_size=2)
    transports = []
    for _ in range(4):
        connection, transport = server.http(), Transport()
        connection.connection_made(transport)
        server.http_feed(connection, transport, ask)
        transports.append(transport)
    await server.settle()
    answers = [bytes(transport.written) for transport in transports]
    assert [answer[9:12] for answer in answers] == [b"200", b"200", b"503", b"503"]
    assert b"Retry-After: 1\r\n" in answers[2]
    server.batcher.close()
