"""A bare asynchronous client of the API server: the baseline, and what the bench itself works with."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import aiohttp
import yaml
from longshore.resources.kinds import MODEL_DEPLOYMENT, Kind

Object = Mapping[str, Any]
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
CONNECTIONS = 32


class Kube:
    """One session with the API server of a kubeconfig; nothing is retried."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    async def __aenter__(self) -> Self:
        config = yaml.safe_load(self._kubeconfig.read_text())
        self.url, context = _credentials(config)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=context)
        self._session = aiohttp.ClientSession(self.url, connector=connector)
        # Watches last as long as a run: they have connections of their own.
        self._watches = aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(limit=0, ssl=context))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._watches.close()

    async def send(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Send one request; raises RuntimeError with the API server's words when it is refused."""
        data = None if body is None else json.dumps(body).encode()
        async with self._session.request(
            method, path, data=data, headers={"Content-Type": content_type}
        ) as answer:
            content = await answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: HTTP {answer.status}: {content[:300].decode()}")
        parsed: dict[str, Any] = json.loads(content)
        return parsed

    async def apply(self, kind: Kind, obj: Object) -> None:
        """Server-side apply, as the operator does it."""
        path = kind.path(obj["metadata"]["namespace"], obj["metadata"]["name"])
        await self.send("PATCH", f"{path}?fieldManager=bare&force=true", obj, "application/apply-patch+yaml")

    async def text(self, path: str) -> str:
        """Read something that is no JSON."""
        async with self._session.get(path) as answer:
            return await answer.text()

    async def present(self, path: str) -> AsyncIterator[str]:
        """Give the name of every object of a list, and of each that comes, until the caller stops."""
        query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1"
        async with self._watches.get(
            f"{path}?{query}",
            headers={"Accept": METADATA_ONLY},
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ADDED":
                    yield event["object"]["metadata"]["name"]

    async def namespace(self, name: str) -> None:
        """Make a namespace."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await self.send("POST", "/api/v1/namespaces", body)

    async def remove_namespace(self, name: str, kinds: Sequence[Kind], seconds: float = 600) -> None:
        """Delete a namespace and wait until it is gone."""
        for kind in (MODEL_DEPLOYMENT, *kinds):
            await self.send("DELETE", kind.path(name))
        await self.send("DELETE", f"/api/v1/namespaces/{name}")
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self.send("GET", f"/api/v1/namespaces/{name}")
                except RuntimeError:
                    return
                await asyncio.sleep(0.5)


def _credentials(config: Mapping[str, Any]) -> tuple[str, ssl.SSLContext]:
    """Read URL and client certificate of the current context; only certificates are supported here."""
    import base64

    def named(group: str, name: str) -> Mapping[str, Any]:
        return next(entry for entry in config[group] if entry["name"] == name)

    context = named("contexts", config["current-context"])["context"]
    cluster = named("clusters", context["cluster"])["cluster"]
    user = named("users", context["user"])["user"]
    with TemporaryDirectory() as folder:

        def path(entry: Mapping[str, Any], key: str) -> str:
            if key in entry:
                return str(entry[key])
            file = Path(folder) / key
            file.write_bytes(base64.b64decode(entry[f"{key}-data"]))
            return str(file)

        tls = ssl.create_default_context(cafile=path(cluster, "certificate-authority"))
        tls.load_cert_chain(path(user, "client-certificate"), path(user, "client-key"))
    return cluster["server"], tls
