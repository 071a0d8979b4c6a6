"""What the operator does in the artifact store: nothing but removing what no revision uses."""

import logging
from collections.abc import Iterable

import httpx

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
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
            for artifact in artifacts:
                if not artifact.startswith("oci://") or "@" not in artifact:
                    continue
                reference, _, digest = artifact.removeprefix("oci://").partition("@")
                host, _, repository = reference.partition("/")
                address = f"{self._scheme}://{host}/v2/{repository.partition(':')[0]}/manifests/{digest}"
                try:
                    answer = await client.delete(address)
                except httpx.HTTPError as error:
                    _LOGGER.warning(
                        "artifact %s stays in its store: %s", artifact, error or type(error).__name__
                    )
                    continue
                if answer.status_code not in (200, 202, 404):
                    _LOGGER.warning("artifact %s stays in its store: HTTP %d", artifact, answer.status_code)
