"""Send sample requests to a pod of each side and tell what came back."""

import asyncio
import json
import time
from typing import Any

import aiohttp

from longshore.api.rollout import Preflight
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.preflight import Answered, compare, requests_for
from longshore.plan.rollout.model import PreflightView
from longshore.resources.names import HTTP_PORT

TIMEOUT = 30.0
"""Seconds for one request: a first inference of a large model may take long."""

DEADLINE = 300.0
_LARGEST = 64 * 2**20


async def preflight(
    name: str, revision: str, stable: str, canary: str, settings: Preflight, objective: float | None
) -> PreflightView:
    """Ask both sides the same requests and compare.

    Args:
        name: the model's name in the protocol.
        revision: the new revision.
        stable: address (IP) of a pod of the stable revision.
        canary: address (IP) of a pod of the new revision.
        settings: `spec.rollout.preflight`.
        objective: latency objective in seconds, None without one.
    """
    limits = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            asyncio.timeout(DEADLINE),
            aiohttp.ClientSession(timeout=limits, trust_env=False) as session,
        ):
            metadata = await metadata_of(session, stable, name)
            # The samples vary in shape: some fit the model, so more are made than are needed.
            made = requests_for(metadata, settings.samples * 2)
            pairs: list[tuple[Answered, Answered]] = []
            for request in made:
                old = await ask(session, stable, name, request)
                pairs.append((old, await ask(session, canary, name, request) if old.outputs else old))
                if sum(pair[0].outputs is not None for pair in pairs) >= settings.samples:
                    break
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return PreflightView(revision, Verdict.ERROR, str(error) or type(error).__name__)
    return compare(settings, objective, revision, pairs)


async def metadata_of(session: aiohttp.ClientSession, address: str, name: str) -> dict[str, Any]:
    """Ask a pod to describe its model (Open Inference Protocol, model metadata).

    Raises:
        aiohttp.ClientError, TimeoutError, OSError: no answer, or another status than 200.
        ValueError: the answer is no description.
    """
    async with session.get(f"{_base(address)}/v2/models/{name}") as response:
        response.raise_for_status()
        metadata = await response.json(content_type=None)
        if not isinstance(metadata, dict):
            raise ValueError(f"pod {address} does not describe its model")
        return metadata


async def ask(session: aiohttp.ClientSession, address: str, name: str, request: dict[str, Any]) -> Answered:
    """Send one inference request to a pod; whatever fails is an answer without outputs."""
    began = time.perf_counter()
    try:
        async with session.post(f"{_base(address)}/v2/models/{name}/infer", json=request) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _LARGEST:
                    return Answered(0.0, error=f"the answer is larger than {_LARGEST} bytes")
            taken = time.perf_counter() - began
            if response.status != 200:
                return Answered(taken, error=f"HTTP {response.status}: {body[:200].decode(errors='replace')}")
            outputs = json.loads(body)["outputs"]
            return Answered(
                taken,
                {o["name"]: o["data"] for o in outputs},
                {o["name"]: tuple(o["shape"]) for o in outputs},
            )
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
        return Answered(time.perf_counter() - began, error=str(error) or type(error).__name__)


def _base(address: str) -> str:
    return f"http://[{address}]:{HTTP_PORT}" if ":" in address else f"http://{address}:{HTTP_PORT}"
