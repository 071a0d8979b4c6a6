"""What the operator does in the artifact store: nothing but removing what no revision uses."""

from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

_TIMEOUT = 5.0
"""Seconds for one request: a deletion must not hang on a registry."""
_GONE = (200, 202, 404)
_BUSY = 429


@dataclass(frozen=True)
class Kept:
    """An artifact that stays in its store, and why; `away` where another attempt may do better."""

    artifact: str
    cause: str
    away: bool = False


class ArtifactStore:
    """A registry as the optimize Job uses it."""

    def __init__(self, plain_http: bool) -> None:
        self._scheme = "http" if plain_http else "https"

    async def release(self, artifacts: Iterable[str]) -> tuple[Kept, ...]:
        """Delete artifacts (`oci://host/repository@sha256:...`) from their registry; gives those that stay.

        The operator holds no credentials of object stores: what lies there is left to their own life-cycle
        rules.
        """
        kept = []
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for artifact in artifacts:
                address = self._address(artifact)
                if address is None:
                    kept.append(Kept(artifact, "the operator deletes from OCI registries only"))
                elif (why := await _delete(session, artifact, address)) is not None:
                    kept.append(why)
        return tuple(kept)

    def _address(self, artifact: str) -> str | None:
        reference, _, digest = artifact.removeprefix("oci://").partition("@")
        host, _, repository = reference.partition("/")
        if not artifact.startswith("oci://") or not digest or not repository:
            return None
        return f"{self._scheme}://{host}/v2/{repository.partition(':')[0]}/manifests/{digest}"


async def _delete(session: aiohttp.ClientSession, artifact: str, address: str) -> Kept | None:
    try:
        async with session.delete(address, allow_redirects=False) as answer:
            status = answer.status
    except (aiohttp.InvalidURL, ValueError) as error:
        return Kept(artifact, f"its address cannot be asked: {error or type(error).__name__}")
    except (aiohttp.ClientError, TimeoutError) as error:
        return Kept(artifact, f"its registry does not answer: {error or type(error).__name__}", away=True)
    if status in _GONE:
        return None
    return Kept(artifact, f"its registry answers HTTP {status}", away=status >= 500 or status == _BUSY)
