"""Fetches one file over HTTP(S): retried with backoff, resumed with Range, never downgraded to clear text."""

import asyncio
import random
import ssl
from pathlib import Path

import httpx

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.credentials import Credentials
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.sink import Sink, too_large
from longshore_optimizer.fetch.uri import is_loopback

_REDIRECTS = 5
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_BACKOFF_SECONDS = 0.5
_BACKOFF_LIMIT = 15.0


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """TLS settings: the usual authorities, and the Secret's `ca.crt` beside them.

    Raises:
        Problem: CredentialsMissing where `ca.crt` is no PEM certificate.
    """
    context = httpx.create_ssl_context()
    authority = credentials.get("ca.crt")
    if authority is not None:
        try:
            context.load_verify_locations(cadata=authority)
        except ssl.SSLError as error:
            raise Problem(
                Reason.CREDENTIALS_MISSING, "the Secret's ca.crt holds no PEM certificate: replace it"
            ) from error
    return context


def client(settings: FetchSettings, credentials: Credentials) -> httpx.AsyncClient:
    """Build a client with this fetch's timeouts; redirects are followed by hand."""
    return httpx.AsyncClient(
        verify=tls_context(credentials),
        timeout=httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout),
        follow_redirects=False,
        headers={"User-Agent": "longshore-optimizer"},
    )


def backoff(attempt: int, retry_after: str | None = None) -> float:
    """Seconds to wait before attempt number `attempt` (from 1): exponential with jitter, or as the server
    asks."""
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), _BACKOFF_LIMIT)
    # Jitter against a thundering herd; nothing secret hangs on it.
    wait: float = min(_BACKOFF_SECONDS * 2 ** (attempt - 1), _BACKOFF_LIMIT)
    return wait * random.uniform(0.5, 1.0)  # noqa: S311


def check_clear_text(url: httpx.URL, settings: FetchSettings) -> None:
    """Refuse `http://` to another machine unless it is allowed."""
    if url.scheme == "https" or settings.allow_http or is_loopback(url.netloc.decode()):
        return
    raise Problem(
        Reason.UNSUPPORTED_URI,
        f"{url} would be fetched in clear text: use https://, or set LONGSHORE_ALLOW_HTTP=true on a "
        "trusted network",
    )


def authorization(credentials: Credentials) -> dict[str, str]:
    """Header for the source: a bearer `token`, else `username` and `password`."""
    token = credentials.get("token")
    if token is not None:
        return {"Authorization": f"Bearer {token}"}
    if credentials.basic is not None:
        return {"Authorization": httpx.BasicAuth(*credentials.basic)._auth_header}
    return {}


def status_problem(status: int, url: str, host: str) -> Problem:
    """Turn an HTTP status of 400 and above into a sentence with a next step."""
    if status in (404, 410):
        return Problem(
            Reason.NOT_FOUND, f"{url} does not exist (HTTP {status}): correct the uri or upload the file"
        )
    if status in (401, 403, 407):
        return Problem(
            Reason.ACCESS_DENIED,
            f"{host} refused access to {url} (HTTP {status}): name a Secret with valid credentials in "
            "credentials.secretName",
        )
    return Problem(
        Reason.FETCH_FAILED,
        f"{host} answered HTTP {status} for {url}: check the server",
        retryable=status in _RETRYABLE,
    )


async def download(
    url_text: str, destination: Path, settings: FetchSettings, credentials: Credentials
) -> tuple[str, int]:
    """Fetch one file to `destination`; gives its SHA-256 and its size in bytes.

    Raises:
        Problem: NotFound, AccessDenied, FetchFailed, Truncated, TooLarge, UnsupportedUri or DiskFull.
    """
    url = httpx.URL(url_text)
    check_clear_text(url, settings)
    async with client(settings, credentials) as http:
        with Sink(destination, settings.max_bytes, url_text) as sink:
            transfer = _Transfer(http, url, sink, settings, authorization(credentials))
            for attempt in range(1, settings.attempts + 1):
                problem = await transfer.attempt()
                if problem is None:
                    return sink.sha256, sink.size
                if not problem.retryable or attempt == settings.attempts:
                    raise problem
                await asyncio.sleep(backoff(attempt, transfer.retry_after))
    raise AssertionError("unreachable: the last attempt returns or raises")


class _Transfer:
    """One file on its way; remembers what a resumed attempt needs."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: httpx.URL,
        sink: Sink,
        settings: FetchSettings,
        auth: dict[str, str],
    ) -> None:
        self._http = http
        self._url = url
        self._sink = sink
        self._settings = settings
        self._auth = auth
        self._validator: str | None = None
        self.retry_after: str | None = None

    async def attempt(self) -> Problem | None:
        """Try once; gives None when the file is complete, else what went wrong."""
        host = self._url.host
        try:
            return await self._stream()
        except httpx.RemoteProtocolError as error:
            return Problem(
                Reason.TRUNCATED,
                f"{host} closed the connection before {self._url} was complete ({error}): upload the file "
                "again",
                retryable=True,
            )
        except (httpx.TransportError, ssl.SSLError) as error:
            cause = str(error) or type(error).__name__
            return Problem(
                Reason.FETCH_FAILED,
                f"cannot reach {host} for {self._url}: {cause}; check the host name, the network policy "
                "and the "
                "certificate",
                retryable="CERTIFICATE_VERIFY_FAILED" not in cause,
            )

    async def _stream(self) -> Problem | None:
        headers = {"Accept-Encoding": "identity", **self._auth}
        offset = self._sink.size if self._validator else 0
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": self._validator or ""}
        url = self._url
        for _ in range(_REDIRECTS + 1):
            async with self._http.stream("GET", url, headers=headers) as response:
                if response.next_request is not None:
                    target = response.next_request.url
                    if url.scheme == "https" and target.scheme != "https":
                        raise Problem(
                            Reason.UNSUPPORTED_URI,
                            f"{url} redirects to clear text ({target}): use its https uri",
                        )
                    check_clear_text(target, self._settings)
                    if (target.host, target.port) != (url.host, url.port):
                        headers.pop("Authorization", None)
                    url = target
                    continue
                return await self._receive(response, offset)
        raise Problem(
            Reason.FETCH_FAILED, f"{self._url} redirects more than {_REDIRECTS} times: correct the uri"
        )

    async def _receive(self, response: httpx.Response, offset: int) -> Problem | None:
        self.retry_after = response.headers.get("Retry-After")
        if response.status_code == 416 and offset:
            self._validator = None
            return Problem(
                Reason.FETCH_FAILED, f"{self._url} changed while it was read: try again", retryable=True
            )
        if response.status_code >= 400:
            return status_problem(response.status_code, str(self._url), self._url.host)
        if response.status_code not in (200, 206):
            return Problem(
                Reason.FETCH_FAILED, f"{self._url} answered HTTP {response.status_code}: correct the uri"
            )
        resumed = response.status_code == 206 and offset > 0
        if not resumed:
            self._sink.restart()
        tag = response.headers.get("ETag", "")
        self._validator = tag if tag and not tag.startswith("W/") else None
        length = response.headers.get("Content-Length", "")
        total = self._sink.size + int(length) if length.isdigit() else None
        if total is not None and total > self._settings.max_bytes:
            raise too_large(str(self._url), self._settings.max_bytes)
        async for chunk in response.aiter_raw():
            self._sink.write(chunk)
            self._settings.progress(self._sink.size, total)
        if total is not None and self._sink.size != total:
            return Problem(
                Reason.TRUNCATED,
                f"{self._url} gave {self._sink.size} of {total} bytes: upload the file again",
                retryable=True,
            )
        return None
