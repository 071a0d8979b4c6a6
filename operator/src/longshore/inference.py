"""Asks pods by the Open Inference Protocol: what their model is, what it answers, what was recorded."""

import json
import time
from typing import Any

import aiohttp

from longshore.outbound import read_limited
from longshore.plan.preflight import Answered, Source
from longshore.plan.state import AskedPod
from longshore.resources.names import HTTP_PORT
from longshore.scrape import MIRROR_KEY_HEADER

SAMPLES_PATH = "/samples"
_SOURCE_HEADER = "Longshore-Samples"
_LARGEST = 64 * 2**20
_LARGEST_SAMPLES = 4 * 2**20
"""Bytes of all recorded requests: what a server gives at most."""


async def metadata_of(session: aiohttp.ClientSession, address: str, name: str) -> dict[str, Any]:
    """Ask a pod to describe its model (Open Inference Protocol, model metadata).

    Raises:
        aiohttp.ClientError, TimeoutError, OSError: no answer, or another status than 200.
        ValueError: the answer is no description.
    """
    async with session.get(f"{_base(address, HTTP_PORT)}/v2/models/{name}") as response:
        response.raise_for_status()
        metadata = await response.json(content_type=None)
        if not isinstance(metadata, dict):
            raise ValueError(f"pod {address} does not describe its model")
        return metadata


async def recorded(
    session: aiohttp.ClientSession, pod: AskedPod, key: str
) -> tuple[Source, list[bytes]] | None:
    """Ask a pod for the requests that it has recorded; None where it has none, or does not know of it.

    Args:
        session: bounded in time.
        pod: to ask.
        key: what the pods know the operator by.
    """
    url = f"{_base(pod.address, pod.samples_port)}{SAMPLES_PATH}"
    try:
        async with session.get(url, headers={MIRROR_KEY_HEADER: key}, allow_redirects=False) as response:
            source = response.headers.get(_SOURCE_HEADER, "")
            if response.status != 200 or source not in list(Source):
                return None
            body = await read_limited(response, _LARGEST_SAMPLES)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    lines = [line for line in body.splitlines() if line]
    return (Source(source), lines) if lines else None


async def ask(session: aiohttp.ClientSession, address: str, name: str, request: bytes, key: str) -> Answered:
    """Send one inference request to a pod; whatever fails is an answer without outputs.

    Args:
        session: bounded in time.
        address: of the pod (IP).
        name: the model's name in the protocol.
        request: in JSON.
        key: what the pods know the operator by: they count its requests, and neither record nor copy them.
    """
    headers = {"Content-Type": "application/json", MIRROR_KEY_HEADER: key}
    began = time.perf_counter()
    try:
        async with session.post(
            f"{_base(address, HTTP_PORT)}/v2/models/{name}/infer", data=request, headers=headers
        ) as response:
            body = await read_limited(response, _LARGEST)
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


def _base(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
