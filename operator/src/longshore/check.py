"""Shows that a cluster serves models: applies a ModelDeployment, asks it a question, and removes it again."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from longshore.cluster import Cluster
from longshore.resources.kinds import MODEL_DEPLOYMENT

PAUSE = 0.5
"""Seconds between two looks."""

_ASK_SECONDS = 5.0
_DELETE_SECONDS = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """What is asked: one row for the model's one input (None: zeros), and the row that must come back (None:
    any)."""

    model: str
    row: list[Any] | None = None
    answer: list[Any] | None = None


class CheckError(Exception):
    """The check failed; the message names the cause and the next step."""


async def check_model(namespace: str, name: str, question: Question, seconds: float, say: Say) -> None:
    """Apply, wait, ask, compare, remove; what an earlier check of the same name left is removed first.

    Raises:
        CheckError: no right answer came within `seconds`.
        ClusterError: the API server refused or did not answer.
    """
    async with await Cluster.connect() as cluster:
        await _remove(cluster, namespace, name)
        obj = {
            "apiVersion": MODEL_DEPLOYMENT.api_version,
            "kind": MODEL_DEPLOYMENT.kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"model": {"uri": question.model}},
        }
        await cluster.create(MODEL_DEPLOYMENT, obj)
        heard = [f"the operator has not looked at ModelDeployment {namespace}/{name}"]

        def hear(words: str) -> None:
            if words != heard[-1]:
                heard.append(words)
                say(words)

        try:
            async with asyncio.timeout(seconds):
                url = await _ready(cluster, namespace, name, hear)
                answer = await _ask(url, question.row, hear)
        except TimeoutError:
            raise CheckError(
                f"no answer within {seconds:g} s; last: {heard[-1]}; next step: "
                f"`kubectl -n {namespace} get events`, the operator's log, NetworkPolicies, DNS"
            ) from None
        finally:
            await _remove(cluster, namespace, name)
    if question.answer is not None and answer != question.answer:
        raise CheckError(
            f"{url} answered {answer}, not {question.answer}: is another server behind this name?"
        )
    say(f"{url} answered {answer}; it is removed again: this cluster serves models")


async def _ready(cluster: Cluster, namespace: str, name: str, hear: Say) -> str:
    """Wait until the model is ready, telling every change of its status; gives its url."""
    while True:
        found = await cluster.get(MODEL_DEPLOYMENT, namespace, name)
        status = (found or {}).get("status", {})
        if "phase" in status:
            hear(f"{status['phase']}: {status.get('message', '')}")
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
        if ready and status.get("url"):
            return str(status["url"])
        await asyncio.sleep(PAUSE)


async def _ask(url: str, row: list[Any] | None, hear: Say) -> list[Any]:
    """Ask by the Open Inference Protocol until an answer comes; gives the values of the first output."""
    async with httpx.AsyncClient(timeout=_ASK_SECONDS, trust_env=False) as client:
        while True:
            try:
                metadata = (await client.get(url)).raise_for_status().json()
                answer = await client.post(f"{url}/infer", json=_request(metadata, row))
                data: list[Any] = answer.raise_for_status().json()["outputs"][0]["data"]
                return data
            except httpx.HTTPStatusError as error:
                hear(f"{url}: HTTP {error.response.status_code}: {error.response.text[:500]}")
            except httpx.HTTPError as error:
                hear(f"{url}: {error or type(error).__name__}")
            await asyncio.sleep(PAUSE)


def _request(metadata: Mapping[str, Any], row: list[Any] | None) -> dict[str, Any]:
    """Build one row for every input; a dynamic dimension counts as 1."""
    inputs = []
    for tensor in metadata["inputs"]:
        shape = [1, *(max(int(size), 1) for size in tensor["shape"][1:])]
        nothing = {"BYTES": "", "BOOL": False}.get(tensor["datatype"], 0)
        data = row if row is not None else [nothing] * math.prod(shape)
        inputs.append({"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": data})
    return {"inputs": inputs}


async def _remove(cluster: Cluster, namespace: str, name: str) -> None:
    """Delete it and wait until it is gone."""
    try:
        async with asyncio.timeout(_DELETE_SECONDS):
            while (found := await cluster.get(MODEL_DEPLOYMENT, namespace, name)) is not None:
                if "deletionTimestamp" not in found["metadata"]:
                    await cluster.delete(MODEL_DEPLOYMENT, namespace, name, found["metadata"]["uid"])
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        raise CheckError(
            f"ModelDeployment {namespace}/{name} is not gone {_DELETE_SECONDS:g} s after its deletion: "
            "does the operator run?"
        ) from None
