"""What the operator does in the artifact store: nothing but removing what no revision uses."""

import logging
from collections.abc import Iterable

import aiohttp

_LOGGER = logging.getLogger(__name__)
_TIMEOUT = 5.0
"""Seconds for one request: a deletion must not hang on a registry."""


class ArtifactStore:
    """A registry as the optimize Job uses it."""

    def __init__(self, plain_http: bool) -> None:
        self._scheme = "http" if plain_http else "https"

    async def release(self, artifacts: Iterable[str]) -> None:
        """Delete artifacts (`oci://host/repository@sha256:...`) from their registry.

        A registry that is away or refuses keeps its bytes: that is logged and holds nobody up. Other kinds
        of stores are left to their own life-cycle rules.
        """
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for artifact in artifacts:
                address = self._address(artifact)
                if address is not None:
                    await _delete(session, artifact, address)

    def _address(self, artifact: str) -> str | None:
        reference, _, digest = artifact.removeprefix("oci://").partition("@")
        host, _, repository = reference.partition("/")
        if not artifact.startswith("oci://") or not digest or not repository:
            return None
        return f"{self._scheme}://{host}/v2/{repository.partition(':')[0]}/manifests/{digest}"


async def _delete(session: aiohttp.ClientSession, artifact: str, address: str) -> None:
    try:
        async with session.delete(address, allow_redirects=False) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        _LOGGER.warning("artifact %s stays in its store: %s", artifact, error or type(error).__name__)
        return
    if status not in (200, 202, 404):
        _LOGGER.warning("artifact %s stays in its store: HTTP %d", artifact, status)
