"""A small client of the OCI distribution API: what pulling and pushing one model needs.

Specification: https://github.com/opencontainers/distribution-spec/blob/main/spec.md; tokens:
https://distribution.github.io/distribution/spec/auth/token/.
"""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urljoin

import httpx

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.credentials import Credentials
from longshore_optimizer.fetch.http import backoff, client, status_problem
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.sink import Sink, too_large
from longshore_optimizer.fetch.uri import Uri, is_loopback

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPT = ", ".join((MANIFEST_TYPE, INDEX_TYPE, _DOCKER_MANIFEST, _DOCKER_LIST))
_MANIFEST_LIMIT = 4 << 20
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFERENCE = re.compile(
    r"^(?P<name>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)
_CHALLENGE = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


@dataclass(frozen=True)
class Reference:
    """An image's name: registry host, repository, and a tag or a digest."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def version(self) -> str:
        """What stands behind the name in a manifest's address: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    def with_digest(self, digest: str) -> str:
        """Give the uri that pins this repository's image with this digest."""
        return f"oci://{self.host}/{self.repository}@{digest}"


@dataclass(frozen=True)
class Descriptor:
    """A blob: media type, digest, size in bytes, annotations."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str]


def parse_reference(uri: Uri) -> Reference:
    """Take the name apart.

    Raises:
        Problem: UnsupportedUri where it is no valid image name.
    """
    match = _REFERENCE.match(uri.path)
    if match is None:
        raise Problem(
            Reason.UNSUPPORTED_URI,
            f"{uri.text} is no image name: write oci://host/repository:tag or "
            "oci://host/repository@sha256:...",
        )
    host = "registry-1.docker.io" if uri.host == "docker.io" else uri.host
    return Reference(host, match["name"], match["tag"], match["digest"])


def descriptor(data: Any) -> Descriptor:
    """Read a descriptor of a manifest; raises ValueError where it is malformed."""
    if not isinstance(data, dict):
        raise TypeError("a descriptor is an object")
    digest, size = data.get("digest"), data.get("size")
    if not isinstance(digest, str) or not re.match(r"^sha256:[0-9a-f]{64}$", digest):
        raise ValueError(f"unsupported digest {digest!r}")
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"bad size {size!r}")
    annotations = {str(k): str(v) for k, v in (data.get("annotations") or {}).items()}
    return Descriptor(str(data.get("mediaType", "")), digest, size, annotations)


class Registry(AbstractAsyncContextManager["Registry"]):
    """One repository of one registry; an asynchronous context manager."""

    def __init__(self, reference: Reference, settings: FetchSettings, credentials: Credentials) -> None:
        """Prepare; nothing is sent before the first request."""
        self.reference = reference
        self._settings = settings
        self._login = credentials.for_registry(reference.host)
        plain = (
            is_loopback(reference.host) or reference.host in settings.plain_http_hosts or settings.allow_http
        )
        self._plain_allowed = plain
        scheme = (
            "http" if reference.host in settings.plain_http_hosts or is_loopback(reference.host) else "https"
        )
        self._base = f"{scheme}://{reference.host}/v2/{reference.repository}/"
        self._http = client(settings, credentials)
        self._authorization: str | None = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Give the registry itself."""
        return self

    async def manifest(self, version: str) -> tuple[dict[str, Any], str] | None:
        """Read a manifest by tag or digest; gives it with its digest, None where there is none.

        Raises:
            Problem: FetchFailed, AccessDenied, DigestMismatch or InvalidModel.
        """
        response = await self._request("GET", f"manifests/{version}", headers={"Accept": _ACCEPT})
        if response.status_code == 404:
            return None
        self._check(response)
        body = response.content
        if len(body) > _MANIFEST_LIMIT:
            raise Problem(
                Reason.TOO_LARGE,
                f"the manifest of {self.reference.repository} is over 4 MiB, which no model's is: correct "
                "the uri",
            )
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if version.startswith("sha256:") and version != digest:
            raise Problem(
                Reason.DIGEST_MISMATCH,
                f"{self.reference.host} gave {digest} for {version}: push the image again, or check the "
                "registry",
            )
        try:
            data = json.loads(body)
        except ValueError as error:
            raise Problem(
                Reason.INVALID_MODEL, "the image manifest is no JSON: push the image again"
            ) from error
        if not isinstance(data, dict):
            raise Problem(Reason.INVALID_MODEL, "the image manifest is no JSON object: push the image again")
        return data, digest

    async def blob(self, blob: Descriptor, sink: Sink) -> None:
        """Stream a blob into `sink`, resuming after a broken connection; its digest is verified.

        Raises:
            Problem: NotFound, FetchFailed, Truncated, TooLarge, DigestMismatch.
        """
        if blob.size > self._settings.max_bytes:
            raise too_large(blob.digest, self._settings.max_bytes)
        problem: Problem | None = None
        for attempt in range(1, self._settings.attempts + 1):
            if attempt > 1:
                await asyncio.sleep(backoff(attempt - 1))
            try:
                problem = await self._stream_blob(blob, sink)
            except httpx.TransportError as error:
                problem = self._unreachable(error)
            if problem is None:
                break
            if not problem.retryable:
                raise problem
        if problem is not None:
            raise problem
        if f"sha256:{sink.sha256}" != blob.digest:
            raise Problem(
                Reason.DIGEST_MISMATCH, f"the layer {blob.digest} has other content: push the image again"
            )

    async def has_blob(self, digest: str) -> bool:
        """Tell whether the repository holds a blob."""
        response = await self._request("HEAD", f"blobs/{digest}")
        if response.status_code == 404:
            return False
        self._check(response)
        return True

    async def push_blob(self, path: Path, digest: str) -> None:
        """Upload a file as a blob unless it is there already.

        Raises:
            Problem: StoreFailed or AccessDenied.
        """
        if await self.has_blob(digest):
            return
        await self._upload(path, digest)

    async def take_blob(self, blob: Descriptor, source: "Registry", scratch: Path) -> None:
        """Get a blob of another repository into this one: unless it is there, mounted, else copied.

        Raises:
            Problem: any reason of `blob` and `push_blob`.
        """
        if await self.has_blob(blob.digest):
            return
        if source.reference.host == self.reference.host:
            origin = quote(source.reference.repository, safe="")
            mounted = await self._request("POST", f"blobs/uploads/?mount={blob.digest}&from={origin}")
            # Who may not mount may still copy; what stands in the way of that is told then.
            if mounted.status_code == 201:
                return
        path = scratch / "blob"
        with Sink(path, self._settings.max_bytes, f"layer {blob.digest}") as sink:
            await source.blob(blob, sink)
        try:
            await self._upload(path, blob.digest)
        finally:
            path.unlink()

    async def _upload(self, path: Path, digest: str) -> None:
        size = await asyncio.to_thread(os.path.getsize, path)
        problem: Problem | None = None
        for attempt in range(1, self._settings.attempts + 1):
            if attempt > 1:
                await asyncio.sleep(backoff(attempt - 1))
            start = await self._request("POST", "blobs/uploads/")
            self._check(start, writing=True)
            location = urljoin(self._base, start.headers.get("Location", ""))
            url = httpx.URL(location).copy_merge_params({"digest": digest})
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            try:
                response = await self._send("PUT", str(url), headers=headers, content=lambda: _chunks(path))
            except httpx.TransportError as error:
                problem = self._unreachable(error)
                continue
            if response.status_code in _RETRYABLE:
                problem = self._store_problem(response)
                continue
            self._check(response, writing=True)
            return
        raise problem or AssertionError("unreachable")

    async def push_manifest(self, body: bytes, tag: str) -> str:
        """Upload a manifest under a tag; gives its digest."""
        headers = {"Content-Type": MANIFEST_TYPE, "Content-Length": str(len(body))}
        response = await self._request(
            "PUT", f"manifests/{tag}", headers=headers, content=lambda: _once(body)
        )
        self._check(response, writing=True)
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    async def _stream_blob(self, blob: Descriptor, sink: Sink) -> Problem | None:
        headers = dict(self._headers())
        if sink.size:
            headers["Range"] = f"bytes={sink.size}-"
        url = f"{self._base}blobs/{blob.digest}"
        for _ in range(6):
            async with self._http.stream("GET", url, headers=headers) as response:
                if response.status_code == 401 and await self._authenticate(response):
                    headers |= self._headers()
                    continue
                if response.next_request is not None:
                    target = response.next_request.url
                    if target.scheme == "http" and not self._plain_allowed:
                        raise Problem(
                            Reason.UNSUPPORTED_URI, f"{self.reference.host} redirects to clear text: use TLS"
                        )
                    if target.netloc.decode() != self.reference.host:
                        headers.pop("Authorization", None)
                    url = str(target)
                    continue
                if response.status_code >= 400:
                    return status_problem(
                        response.status_code, f"the layer {blob.digest}", self.reference.host
                    )
                if response.status_code != 206:
                    sink.restart()
                async for chunk in response.aiter_raw():
                    sink.write(chunk)
                    self._settings.progress(sink.size, blob.size)
                if sink.size != blob.size:
                    return Problem(
                        Reason.TRUNCATED,
                        f"the layer {blob.digest} has {sink.size} of {blob.size} bytes: push the image again",
                        retryable=sink.size < blob.size,
                    )
                return None
        return Problem(Reason.FETCH_FAILED, f"{self.reference.host} redirects too often: check the registry")

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    async def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        content: Callable[[], AsyncIterator[bytes]] | None = None,
    ) -> httpx.Response:
        """Send with retries; `content` makes the body anew for every attempt."""
        problem: Problem | None = None
        for attempt in range(1, self._settings.attempts + 1):
            if attempt > 1:
                await asyncio.sleep(backoff(attempt - 1))
            try:
                response = await self._send(method, self._base + path, headers=headers or {}, content=content)
            except httpx.TransportError as error:
                problem = self._unreachable(error)
                if not problem.retryable:
                    raise problem from error
                continue
            if response.status_code not in _RETRYABLE:
                return response
            problem = status_problem(
                response.status_code, f"{self.reference.repository}", self.reference.host
            )
        raise problem or AssertionError("unreachable")

    async def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        content: Callable[[], AsyncIterator[bytes]] | None = None,
    ) -> httpx.Response:
        response = await self._http.request(
            method, url, headers=headers | self._headers(), content=content() if content else None
        )
        if response.status_code == 401 and await self._authenticate(response):
            response = await self._http.request(
                method, url, headers=headers | self._headers(), content=content() if content else None
            )
        return response

    async def _authenticate(self, response: httpx.Response) -> bool:
        """Answer a 401 challenge; gives whether there is something new to try."""
        challenge = response.headers.get("WWW-Authenticate", "")
        before = self._authorization
        kind = challenge.split(" ", 1)[0].lower()
        if kind == "basic" and self._login is not None:
            auth = httpx.BasicAuth(*self._login)
            self._authorization = auth._auth_header
        elif kind == "bearer":
            fields = dict(_CHALLENGE.findall(challenge))
            self._authorization = await self._token(fields)
        return self._authorization is not None and self._authorization != before

    async def _token(self, fields: dict[str, str]) -> str | None:
        realm = httpx.URL(fields.get("realm", ""))
        if realm.scheme != "https" and not (self._plain_allowed or is_loopback(realm.netloc.decode())):
            raise Problem(
                Reason.ACCESS_DENIED, f"{self.reference.host} asks for credentials in clear text: use TLS"
            )
        scope = fields.get("scope", f"repository:{self.reference.repository}:pull")
        params = {"scope": scope} | ({"service": fields["service"]} if "service" in fields else {})
        response = await self._http.get(realm, params=params, auth=self._login)
        if response.status_code >= 400:
            return None
        data = response.json()
        token = data.get("token") or data.get("access_token")
        return f"Bearer {token}" if token else None

    def _check(self, response: httpx.Response, *, writing: bool = False) -> None:
        if response.status_code < 400:
            return
        if writing and response.status_code not in (401, 403):
            raise self._store_problem(response)
        raise status_problem(response.status_code, f"{self.reference.repository}", self.reference.host)

    def _store_problem(self, response: httpx.Response) -> Problem:
        return Problem(
            Reason.STORE_FAILED,
            f"the registry {self.reference.host} refused the artifact (HTTP {response.status_code}: "
            f"{response.text[:200]}): check its storage and permissions",
            retryable=response.status_code in _RETRYABLE,
        )

    def _unreachable(self, error: httpx.TransportError) -> Problem:
        cause = str(error) or type(error).__name__
        return Problem(
            Reason.FETCH_FAILED,
            f"cannot reach the registry {self.reference.host}: {cause}; check the host name, the network "
            "policy "
            "and the certificate",
            retryable="CERTIFICATE_VERIFY_FAILED" not in cause,
        )


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
