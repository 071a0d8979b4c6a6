"""The least operator that makes the same objects: a yardstick of what CPU time is worth on a machine.

kopf hears of ModelDeployments; for each, objects from a template are applied and a status is written. Nothing
is planned, nothing of it is watched, nothing that goes wrong is mended. The target of 4 s of CPU time was set
on a machine on which such a prototype took 1.8 s.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import kopf
from longshore.resources.kinds import MODEL_DEPLOYMENT, kind_of

from bench.reconcile.hearing import run
from bench.reconcile.kube import Kube

NAME, NAMESPACE = "name-of-the-model", "namespace-of-the-model"
UID = "00000000-0000-0000-0000-000000000000"
"""What stands in a template for name, namespace and UID of a ModelDeployment."""

_AT_ONCE = 20


async def operate(namespace: str, template: str, kubeconfig: Path) -> None:
    """Apply the template for every ModelDeployment in a namespace until the process ends."""
    registry = kopf.OperatorRegistry()
    seen: set[str] = set()
    turns = asyncio.Semaphore(_AT_ONCE)

    async with Kube(kubeconfig) as kube:

        async def apply(body: kopf.Body, **_: Any) -> None:
            name, uid = body.metadata["name"], body.metadata["uid"]
            if uid in seen:
                return
            seen.add(uid)
            async with turns:
                for obj in json.loads(template.replace(NAME, name).replace(UID, uid)):
                    await kube.apply(kind_of(obj), obj)
                path = f"{MODEL_DEPLOYMENT.path(namespace, name)}/status"
                status = {"status": {"observedGeneration": body.metadata["generation"]}}
                await kube.send("PATCH", path, status, "application/merge-patch+json")

        kind = MODEL_DEPLOYMENT
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(apply)
        await run(registry, kopf.OperatorSettings(), namespace)


if __name__ == "__main__":
    import uvloop

    uvloop.run(operate(sys.argv[1], sys.stdin.read(), Path(os.environ["KUBECONFIG"])))
