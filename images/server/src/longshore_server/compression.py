"""Content codings of HTTP bodies: gzip and deflate (RFC 9110 section 8.4.1)."""

import zlib

from longshore_server.errors import GrpcStatus, RequestError, bad_request, too_large

CODINGS = ("gzip", "deflate")
# Answers below this many bytes are sent as they are.
MIN_BYTES = 1024
# Level 1: floats hardly shrink further, and the time of higher levels would be the request's.
_LEVEL = 1
_WINDOW_BITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def choose(accept_encoding: str) -> str:
    """The coding to answer with: the first of ours that the client accepts, or an empty string."""
    accepted: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, _, parameter = part.strip().partition(";")
        quality = parameter.strip().removeprefix("q=")
        try:
            accepted[coding.strip()] = float(quality) if quality else 1.0
        except ValueError:
            accepted[coding.strip()] = 0.0
    ranked = sorted(CODINGS, key=lambda coding: -accepted.get(coding, 0.0))
    return ranked[0] if accepted.get(ranked[0], 0.0) > 0 else ""


def compress(coding: str, body: bytes | memoryview) -> bytes:
    """Encode `body` with `coding`, one of `CODINGS`."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[coding])
    return compressor.compress(body) + compressor.flush()


def decompress(coding: str, body: bytes | memoryview, limit: int) -> bytes:
    """Decode `body`. Raises `RequestError` for damaged data and for more than `limit` decoded bytes."""
    if coding not in _WINDOW_BITS:
        raise RequestError(
            415, GrpcStatus.UNIMPLEMENTED, f"content coding {coding!r} is not taken: use {', '.join(CODINGS)}"
        )
    decompressor = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        decoded = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise bad_request(f"the body is no {coding} data: {error}") from None
    if len(decoded) > limit:
        raise too_large(f"the decoded body is larger than the limit of {limit} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise bad_request(f"the body is truncated {coding} data, or more follows it")
    return decoded
