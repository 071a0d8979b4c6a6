"""Where sample requests come from: recorded ones before such as are made from the model's signature."""

from collections.abc import AsyncIterator, Iterator, Sequence

import aiohttp

from longshore.inference import metadata_of, recorded
from longshore.plan.preflight import Source, requests_for
from longshore.plan.state import AskedPod

LARGEST = 4 * 2**20
"""Bytes of made requests that are kept to be sent again and again, for one model."""


async def sources(
    session: aiohttp.ClientSession,
    name: str,
    described_by: str,
    recorders: Sequence[AskedPod],
    key: str,
    count: int,
) -> AsyncIterator[tuple[Source, Iterator[bytes]]]:
    """Give sample requests (Open Inference Protocol, JSON), the most telling ones first.

    Args:
        session: bounded in time.
        name: the model's name in the protocol.
        described_by: address of a pod that such as are made shall fit.
        recorders: pods in the order in which what they recorded counts.
        key: what the pods know the operator by.
        count: requests that are needed; of made ones there are twice as many, as some fit no model.

    Raises:
        aiohttp.ClientError, TimeoutError, OSError, ValueError: the model is not described.
    """
    for pod in recorders:
        found = await recorded(session, pod, key)
        if found is not None:
            yield found[0], iter(found[1][:count])
    metadata = await metadata_of(session, described_by, name)
    yield Source.SIGNATURE, requests_for(metadata, 2 * count)
