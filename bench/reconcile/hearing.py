"""kopf in one namespace, for processes beside the operator; imports nothing of it, as that would count."""

import asyncio
from typing import Any

import kopf


async def run(registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings, namespace: str) -> None:
    """Run kopf with these handlers in one namespace until the process ends; prints a line once it watches."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    kopf.on.login(registry=registry)(kopf.login_with_kubeconfig)
    ready = asyncio.Event()

    async def tell() -> None:
        await ready.wait()
        print("ready", flush=True)

    identity: Any = "bench"
    await asyncio.gather(
        tell(),
        kopf.operator(
            registry=registry,
            settings=settings,
            identity=identity,
            standalone=True,
            namespaces=[namespace],
            ready_flag=ready,
        ),
    )
