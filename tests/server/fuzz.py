"""Coverage-guided fuzzing of what reads bytes from strangers: `python -m tests.server.fuzz TARGET`.

TARGET is `http` (HTTP/1.1 heads, chunks and bodies), `http2` (frames, header blocks, gRPC messages) or
`infer` (V2 requests in JSON and binary behind a valid head). A crash, a hang of 10 s or 700 MB of memory
is an error.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["longshore_server"]):
    from tests.server import models
    from tests.server.inprocess import InProcess, Transport

TARGETS = ("http", "http2", "infer")
_HANG_SECONDS, _MEMORY_MB = 10, 700
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_INFER = b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\n"
_SEEDS = {
    "http": [
        b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n",
        _INFER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        _INFER + b"Content-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}",
    ],
    "http2": [
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
        b"\x00\x00\x03\x01\x05\x00\x00\x00\x01\x83\x86\x84",
    ],
    "infer": [
        b'{"inputs":[{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]},'
        b'{"name":"b","shape":[1,4],"datatype":"INT64","parameters":{"binary_data_size":32}}]}' + bytes(32),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.server.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        model = models.two_inputs(Path(work) / "pair")
        corpus = Path(work) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(_SEEDS[options.target]):
            (corpus / str(number)).write_bytes(seed)
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(_server(model))

        def one(data: bytes) -> None:
            loop.run_until_complete(_feed(server, options.target, data))

        limits = [f"-timeout={_HANG_SECONDS}", f"-rss_limit_mb={_MEMORY_MB}", "-max_len=4096"]
        words = ["-verbosity=0", "-print_final_stats=1"]
        time = f"-max_total_time={options.seconds}"
        atheris.Setup([sys.argv[0], time, *limits, *words, str(corpus)], one)
        atheris.Fuzz()


async def _server(model: Path) -> InProcess:
    return InProcess(model)


async def _feed(server: InProcess, target: str, data: bytes) -> None:
    transport = Transport()
    if target == "http2":
        connection = server.grpc()
        connection.connection_made(transport)
        cut = len(data) // 2
        for piece in (_PREFACE, data[:cut], data[cut:]):
            if not transport.closing:
                connection.data_received(piece)
    else:
        connection = server.http()
        connection.connection_made(transport)
        if target == "infer":
            text = data.rfind(b"}") + 1
            head = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (text, len(data))
            data = _INFER + head + data
        cut = len(data) // 2
        for piece in (data[:cut], data[cut:]):
            server.http_feed(connection, transport, piece)
    await server.settle()
    connection.connection_lost(None)


if __name__ == "__main__":
    main()
