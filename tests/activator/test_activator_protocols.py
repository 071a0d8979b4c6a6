"""Protocols that the activator knows nothing of pass it: held while no pod runs, then joined to one."""

import asyncio
import ipaddress

import grpc
import pytest
from cryptography import x509

from e2e.kit.certificate import self_signed

_SAY = "/test.Echo/Say"


async def say(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    """Answer in upper case."""
    return request.upper()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_grpc_client_that_comes_at_zero_is_answered_by_the_pod(harness, tls):
    key, certificate = self_signed(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    pod = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(say)
    pod.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", {"Say": handler})])
    if tls:
        port = pod.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = pod.add_insecure_port("127.0.0.1:0")
    await pod.start()
    harness.apply(harness.route([], port, readiness={"mode": "Tcp"}))
    target = f"127.0.0.1:{harness.port()}"
    channel = (
        grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(certificate))
        if tls
        else grpc.aio.insecure_channel(target)
    )
    async with channel:
        asked = asyncio.ensure_future(channel.unary_unary(_SAY)(b"from zero", timeout=10))
        await harness.until(lambda: harness.number("demand") == 1)
        harness.apply(harness.route([("127.0.0.1", False)], port, harness.port(), readiness={"mode": "Tcp"}))
        assert await asked == b"FROM ZERO"
        assert await channel.unary_unary(_SAY)(b"again", timeout=10) == b"AGAIN"
        assert harness.number("accepted") == 1, "one connection carries both"
    await pod.stop(0)
