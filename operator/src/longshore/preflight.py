"""Send sample requests to a pod of each side and tell what came back."""

import asyncio

import aiohttp

from longshore.api.rollout import Preflight
from longshore.inference import ask
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.preflight import Answered, Source, compare
from longshore.plan.rollout.model import PreflightView
from longshore.plan.state import AskedPod
from longshore.samples import sources

TIMEOUT = 30.0
"""Seconds for one request: a first inference of a large model may take long."""

DEADLINE = 300.0


async def preflight(
    name: str,
    revision: str,
    stable: AskedPod,
    canary: AskedPod,
    settings: Preflight,
    objective: float | None,
    key: str,
) -> PreflightView:
    """Ask both sides the same requests and compare.

    Requests that were recorded come first: what the new revision's artifact has of the user's data, then what
    the stable one's has, or what it was asked lately. Made ones are asked where it answers none of those.

    Args:
        name: the model's name in the protocol.
        revision: the new revision.
        stable: a pod of the stable revision.
        canary: a pod of the new revision.
        settings: `spec.rollout.preflight`.
        objective: latency objective in seconds, None without one.
        key: what the pods know the operator by.
    """
    limits = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            asyncio.timeout(DEADLINE),
            aiohttp.ClientSession(timeout=limits, trust_env=False) as session,
        ):
            source, pairs = await _asked(session, name, stable, canary, settings.samples, key)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return PreflightView(revision, Verdict.ERROR, str(error) or type(error).__name__)
    return compare(settings, objective, revision, pairs, source)


async def _asked(
    session: aiohttp.ClientSession, name: str, stable: AskedPod, canary: AskedPod, samples: int, key: str
) -> tuple[Source, list[tuple[Answered, Answered]]]:
    """Ask from the first source that the stable revision can answer anything of."""
    pairs: list[tuple[Answered, Answered]] = []
    async for source, requests in sources(session, name, stable.address, (canary, stable), key, samples):
        pairs = []
        usable = 0
        for request in requests:
            old = await ask(session, stable.address, name, request, key)
            new = old
            if old.outputs is not None:
                new = await ask(session, canary.address, name, request, key)
            pairs.append((old, new))
            usable += old.outputs is not None
            if usable >= samples:
                break
        if usable:
            return source, pairs
    return Source.SIGNATURE, pairs
