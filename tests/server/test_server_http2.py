"""The server's HTTP/2 and gRPC: against grpc.aio on the same requests, cut at every byte, and under abuse."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import hpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longshore_server import http2frames as h2
from longshore_server.messages import Messages

from tests.server import models
from tests.server.harness import Server
from tests.server.inprocess import LIMITS, InProcess, Transport
from tests.server.reference import DTYPES, Reference

METHOD = "/inference.GRPCInferenceService/ModelInfer"
messages = Messages()
Request = messages.type("inference.ModelInferRequest")
Response = messages.type("inference.ModelInferResponse")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.two_inputs(tmp_path_factory.mktemp("d") / "pair")


class AioReference:
    """ModelInfer on grpc.aio, with protobuf for both directions."""

    def __init__(self, model: Path) -> None:
        self.reference = Reference(model)

    async def infer(self, data: bytes, context: Any) -> bytes:
        try:
            request = Request.FromString(data)
            if request.model_name != self.reference.name:
                await context.abort(grpc.StatusCode.NOT_FOUND, "model")
            feeds, raws = {}, list(request.raw_input_contents)
            for tensor in request.inputs:
                dtype = DTYPES[tensor.datatype]
                values: Any = (
                    np.frombuffer(raws.pop(0), dtype)
                    if request.raw_input_contents
                    else np.array(
                        tensor.contents.fp32_contents
                        if dtype is np.float32
                        else tensor.contents.int64_contents,
                        dtype,
                    )
                )
                feeds[tensor.name] = values.reshape(tensor.shape)
            outputs = {name: (kind, array) for name, kind, array in self.reference.run(feeds)}
            wanted = [output.name for output in request.outputs] or list(outputs)
            if raws or feeds.keys() != {"a", "b"} or set(wanted) - outputs.keys():
                raise ValueError
        except (ValueError, KeyError, IndexError, OverflowError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad")
        response = Response(model_name=request.model_name, model_version="1", id=request.id)
        for name in wanted:
            kind, array = outputs[name]
            response.outputs.add(name=name, datatype=kind, shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return bytes(response.SerializeToString(deterministic=True))


@st.composite
def requests(draw: Any) -> bytes:
    rows = draw(st.integers(1, 3))
    request = Request(
        model_name=draw(st.sampled_from(["pair"] * 8 + ["other"])),
        id=draw(st.sampled_from(["", "x", "é" * 40])),
    )
    raw = draw(st.booleans())
    for name in draw(st.permutations(["a", "b"]) | st.just(["a"])):
        size = rows * 4 + draw(st.sampled_from([0] * 8 + [1]))
        tensor = request.inputs.add(name=name, datatype="FP32" if name == "a" else "INT64", shape=[rows, 4])
        elements = st.floats(-10, 10, width=32) if name == "a" else st.integers(-(2**62), 2**62)
        values = draw(st.lists(elements, min_size=size, max_size=size))
        if raw:
            request.raw_input_contents.append(np.array(values, DTYPES[tensor.datatype]).tobytes())
        elif name == "a":
            tensor.contents.fp32_contents.extend(values)
        else:
            tensor.contents.int64_contents.extend(values)
    for name in draw(st.lists(st.sampled_from(["total", "twice", "none"]), max_size=2, unique=True)):
        request.outputs.add(name=name)
    return bytes(request.SerializeToString())


@pytest.fixture(scope="module")
def server(pair: Path) -> Any:
    with Server(pair) as running:
        yield running


def test_answers_are_those_of_grpc_aio(pair: Path, server: Server) -> None:
    loop = asyncio.new_event_loop()

    async def start() -> tuple[grpc.aio.Server, Any, Any]:
        theirs = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(AioReference(pair).infer)
        service, method = METHOD[1:].split("/")
        theirs.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = theirs.add_insecure_port("127.0.0.1:0")
        await theirs.start()
        return (
            theirs,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}"),
            grpc.aio.insecure_channel(server.grpc_address),
        )

    theirs, their_channel, our_channel = loop.run_until_complete(start())

    async def ask(channel: Any, data: bytes) -> tuple[str, bytes]:
        try:
            return "OK", await channel.unary_unary(METHOD)(data, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code().name, b""

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=requests())
    def alike(data: bytes) -> None:
        async def both() -> None:
            wanted = await ask(their_channel, data)
            for _ in range(2):  # the second time from what was kept of the first
                assert await ask(our_channel, data) == wanted

        loop.run_until_complete(both())

    try:
        alike()
    finally:
        loop.run_until_complete(their_channel.close())
        loop.run_until_complete(our_channel.close())
        loop.run_until_complete(theirs.stop(None))
        loop.close()


def headers(stream: int, encoder: hpack.Encoder, path: str = METHOD, flags: int = h2.END_HEADERS) -> bytes:
    block = encoder.encode(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
    )
    return h2.frame(h2.HEADERS, flags, stream, block)


def message() -> bytes:
    request = Request(model_name="pair", id="q")
    request.inputs.add(name="a", datatype="FP32", shape=[1, 4])
    request.inputs.add(name="b", datatype="INT64", shape=[1, 4])
    request.raw_input_contents.append(np.ones(4, np.float32).tobytes())
    request.raw_input_contents.append(np.ones(4, np.int64).tobytes())
    raw = bytes(request.SerializeToString())
    return h2.PREFIX.pack(0, len(raw)) + raw


def conversation() -> bytes:
    encoder, body = hpack.Encoder(), message()
    parts = [h2.PREFACE, h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 20})]
    parts += [headers(1, encoder), h2.frame(h2.DATA, h2.END_STREAM, 1, body)]
    parts += [h2.frame(h2.PING, 0, 0, b"12345678")]
    # The second message in three frames, the last one padded; the third in one frame and an empty end.
    parts += [headers(3, encoder), h2.frame(h2.DATA, 0, 3, body[:3]), h2.frame(h2.DATA, 0, 3, body[3:20])]
    parts += [h2.frame(h2.DATA, h2.END_STREAM | h2.PADDED, 3, b"\x03" + body[20:] + bytes(3))]
    parts += [headers(5, encoder), h2.frame(h2.DATA, 0, 5, body), h2.frame(h2.DATA, h2.END_STREAM, 5)]
    return b"".join(parts)


def split_frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    frames = []
    while data:
        head, flags, stream = h2.FRAME.unpack_from(data)
        length = head >> 8
        frames.append((head & 255, flags, stream, data[9 : 9 + length]))
        data = data[9 + length :]
    return frames


def statuses(data: bytes) -> dict[int, str]:
    found, decoder = {}, hpack.Decoder()
    for kind, flags, stream, payload in split_frames(data):
        if kind == h2.HEADERS:
            fields = dict(decoder.decode(payload))
            if flags & h2.END_STREAM:
                found[stream] = fields["grpc-status"]
    return found


async def test_every_cut_of_a_conversation_gives_the_same_answers(pair: Path) -> None:
    data = conversation()
    whole, closed = await InProcess(pair).grpc_answer(data)
    assert statuses(whole) == {1: "0", 3: "0", 5: "0"}
    assert not closed
    wanted = sorted(frame for frame in split_frames(whole) if frame[2])
    server = InProcess(pair)
    for at in range(1, len(data)):
        connection, transport = server.grpc(), Transport()
        connection.connection_made(transport)
        connection.data_received(data[:at])
        await server.settle()
        connection.data_received(data[at:])
        await server.settle()
        got = [frame for frame in split_frames(bytes(transport.written)) if frame[2]]
        # An answer that overtakes the end of its request is followed by a reset that says so.
        assert sorted(frame for frame in got if frame[0] != h2.RST_STREAM) == [
            frame for frame in wanted if frame[0] != h2.RST_STREAM
        ], at
        connection.connection_lost(None)
    server.batcher.close()


async def test_a_small_window_is_respected(pair: Path) -> None:
    server = InProcess(pair)
    connection, transport = server.grpc(), Transport()
    connection.connection_made(transport)
    connection.data_received(h2.PREFACE + h2.settings({h2.INITIAL_WINDOW_SIZE: 10}))
    encoder = hpack.Encoder()
    connection.data_received(headers(1, encoder) + h2.frame(h2.DATA, h2.END_STREAM, 1, message()))
    await server.settle()

    def sent() -> int:
        return sum(
            len(payload) for kind, _, _, payload in split_frames(bytes(transport.written)) if kind == h2.DATA
        )

    assert sent() == 10
    for _ in range(100):
        if statuses(bytes(transport.written)):
            break
        before = sent()
        connection.data_received(h2.window_update(1, 7))
        assert sent() - before <= 7
    assert statuses(bytes(transport.written)) == {1: "0"}
    connection.connection_lost(None)
    server.batcher.close()


async def test_what_arrives_in_pieces_is_granted_again(pair: Path) -> None:
    frames, piece = 20, 1 << 16
    limits = dataclasses.replace(LIMITS, body_bytes=64 << 20, in_flight_bytes=64 << 20)
    server = InProcess(pair, limits)
    connection, transport = server.grpc(), Transport()
    connection.connection_made(transport)
    start = len(transport.written)
    body = h2.PREFIX.pack(0, 64 << 20) + bytes((frames << 20) - h2.PREFIX_BYTES)
    data = h2.PREFACE + headers(1, hpack.Encoder())
    for at in range(0, len(body), 1 << 20):
        data += h2.frame(h2.DATA, 0, 1, body[at : at + (1 << 20)])
    for at in range(0, len(data), piece):
        connection.data_received(data[at : at + piece])
    granted = {0: 0, 1: 0}
    for kind, _, stream, payload in split_frames(bytes(transport.written[start:])):
        if kind == h2.WINDOW_UPDATE:
            granted[stream] += h2.UINT32.unpack(payload)[0]
    assert granted == {0: 16 << 20, 1: frames << 20}
    connection.connection_lost(None)
    assert server.grpc.message_bytes == 0
    server.batcher.close()


async def test_a_message_in_one_frame_meets_the_same_limit(pair: Path) -> None:
    data = h2.PREFACE + headers(1, hpack.Encoder()) + h2.frame(h2.DATA, h2.END_STREAM, 1, message())
    answer, _ = await InProcess(pair, dataclasses.replace(LIMITS, body_bytes=50)).grpc_answer(data)
    assert statuses(answer) == {1: str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])}


def open_streams(count: int) -> bytes:
    encoder = hpack.Encoder()
    return b"".join(headers(2 * number + 1, encoder) for number in range(count))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", h2.PROTOCOL_ERROR),
        (h2.PREFACE + h2.frame(h2.DATA, 0, 1, b"x"), h2.PROTOCOL_ERROR),
        (h2.PREFACE + h2.UINT32.pack(1 << 31 | h2.DATA) + bytes(5), h2.FRAME_SIZE_ERROR),
        (h2.PREFACE + h2.frame(h2.HEADERS, h2.END_HEADERS, 2, b"\x82"), h2.PROTOCOL_ERROR),
        (
            h2.PREFACE + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
            h2.COMPRESSION_ERROR,
        ),
        (h2.PREFACE + h2.frame(h2.CONTINUATION, 0, 1, b""), h2.PROTOCOL_ERROR),
        (
            h2.PREFACE + h2.frame(h2.HEADERS, 0, 1, b"\x82") + h2.frame(h2.PING, 0, 0, bytes(8)),
            h2.PROTOCOL_ERROR,
        ),
        (
            h2.PREFACE + h2.frame(h2.HEADERS, 0, 1, b"\x82") + h2.frame(h2.CONTINUATION, 0, 1, b"") * 40,
            h2.ENHANCE_YOUR_CALM,
        ),
        (h2.PREFACE + h2.window_update(0, 0), h2.PROTOCOL_ERROR),
        (h2.PREFACE + h2.window_update(0, h2.MAX_WINDOW), h2.FLOW_CONTROL_ERROR),
        (h2.PREFACE + h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 31}), h2.FLOW_CONTROL_ERROR),
        (h2.PREFACE + h2.frame(h2.PUSH_PROMISE, 0, 1, bytes(4)), h2.PROTOCOL_ERROR),
        (h2.PREFACE + h2.frame(h2.PING, 0, 0, bytes(8)) * 1100, h2.ENHANCE_YOUR_CALM),
        (h2.PREFACE + h2.settings({}) * 1100, h2.ENHANCE_YOUR_CALM),
        (
            h2.PREFACE
            + b"".join(
                headers(2 * n + 1, hpack.Encoder()) + h2.frame(h2.RST_STREAM, 0, 2 * n + 1, bytes(4))
                for n in range(1100)
            ),
            h2.ENHANCE_YOUR_CALM,
        ),
        (h2.PREFACE + open_streams(1) + h2.frame(h2.DATA, 0, 1) * 1100, h2.ENHANCE_YOUR_CALM),
    ],
)
async def test_abuse_ends_the_connection(pair: Path, data: bytes, code: int) -> None:
    answer, closed = await InProcess(pair).grpc_answer(data)
    assert closed
    kind, _, _, payload = split_frames(answer)[-1]
    assert kind == h2.GOAWAY
    assert h2.UINT32.unpack_from(payload, 4)[0] == code


async def test_streams_above_the_limit_are_refused_and_may_be_retried(pair: Path) -> None:
    answer, closed = await InProcess(pair).grpc_answer(h2.PREFACE + open_streams(1030))
    resets = [frame for frame in split_frames(answer) if frame[0] == h2.RST_STREAM]
    assert len(resets) == 6
    assert all(h2.UINT32.unpack(payload)[0] == h2.REFUSED_STREAM for *_, payload in resets)
    assert not closed


async def test_a_full_queue_answers_unavailable(pair: Path) -> None:
    encoder = hpack.Encoder()
    calls = [
        headers(stream, encoder) + h2.frame(h2.DATA, h2.END_STREAM, stream, message())
        for stream in (1, 3, 5, 7)
    ]
    answer, closed = await InProcess(pair, queue_size=2).grpc_answer(h2.PREFACE + b"".join(calls))
    unavailable = str(grpc.StatusCode.UNAVAILABLE.value[0])
    assert statuses(answer) == {1: "0", 3: "0", 5: unavailable, 7: unavailable}
    assert not closed


def test_calls_fail_with_the_right_codes(server: Server) -> None:
    def code(method: str, data: bytes) -> tuple[Any, str]:
        with grpc.insecure_channel(server.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(data, timeout=10)
        error: Any = caught.value
        return error.code(), error.details()

    assert code("/inference.GRPCInferenceService/Nothing", b"")[0] == grpc.StatusCode.UNIMPLEMENTED
    assert (
        code("/inference.GRPCInferenceService/RepositoryModelLoad", b"")[0] == grpc.StatusCode.UNIMPLEMENTED
    )
    assert code(METHOD, b"\xff\xff")[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert code(METHOD, bytes(Request(model_name="né").SerializeToString())) == (
        grpc.StatusCode.NOT_FOUND,
        "unknown model 'né': this server has 'pair'",
    )


def test_the_standard_health_service(server: Server) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"


async def test_a_deadline_that_has_passed_is_not_run(pair: Path) -> None:
    encoder = hpack.Encoder()
    block = encoder.encode(
        [
            (":method", "POST"),
            (":path", METHOD),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "1n"),
        ]
    )
    data = h2.PREFACE + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, block)
    answer, _ = await InProcess(pair).grpc_answer(data + h2.frame(h2.DATA, h2.END_STREAM, 1, message()))
    assert statuses(answer) == {1: str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])}


async def test_drain_tells_clients_and_finishes_calls(tmp_path: Path) -> None:
    import signal

    with Server(models.two_inputs(tmp_path / "pair")) as running:
        async with grpc.aio.insecure_channel(running.grpc_address) as channel:

            async def asks() -> AsyncIterator[bytes]:
                for _ in range(3):
                    yield message()[5:]

            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(asks())
            assert len([one async for one in stream]) == 3
            running.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(running.process.wait, 15) == 0
