"""Object stores (S3, Google Cloud Storage, Azure Blob) through obstore: one object, or all under a prefix."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.credentials import Credentials
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.sink import Sink, tree_sha256
from longshore_optimizer.fetch.uri import Uri, is_loopback

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_S3_KEYS: dict[str, tuple[str, ...]] = {
    "access_key_id": ("AWS_ACCESS_KEY_ID", "accessKeyID", "username"),
    "secret_access_key": ("AWS_SECRET_ACCESS_KEY", "secretAccessKey", "password"),
    "session_token": ("AWS_SESSION_TOKEN",),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "endpoint": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
}
_GS_KEYS: dict[str, tuple[str, ...]] = {
    "service_account_key": ("GOOGLE_SERVICE_ACCOUNT_KEY", "key.json", "credentials.json"),
}
_AZ_KEYS: dict[str, tuple[str, ...]] = {
    "account_name": ("AZURE_STORAGE_ACCOUNT_NAME",),
    "account_key": ("AZURE_STORAGE_ACCOUNT_KEY",),
    "sas_key": ("AZURE_STORAGE_SAS_KEY",),
    "client_id": ("AZURE_CLIENT_ID",),
    "client_secret": ("AZURE_CLIENT_SECRET",),
    "tenant_id": ("AZURE_TENANT_ID",),
}
_KEYS = {"s3": _S3_KEYS, "gs": _GS_KEYS, "az": _AZ_KEYS}


def configuration(
    scheme: str, credentials: Credentials, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Give the store's options from the Secret, else from the environment."""
    config: dict[str, str] = {}
    for option, names in _KEYS[scheme].items():
        value = credentials.get(*names) or next(
            (environ[n] for n in names if environ.get(n) and n.isupper()), None
        )
        if value is not None:
            config[option] = value
    if scheme == "s3":
        config.setdefault("region", "us-east-1")
        if "access_key_id" not in config and not environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
            config["skip_signature"] = "true"
    return config


def open_store(uri: Uri, settings: FetchSettings, credentials: Credentials) -> "ObjectStore":
    """Open the bucket of a uri.

    Raises:
        Problem: UnsupportedUri for an endpoint in clear text that is not allowed.
    """
    from datetime import timedelta

    from obstore.store import AzureStore, GCSStore, S3Store

    config: dict[str, Any] = dict(configuration(uri.scheme, credentials))
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=settings.connect_timeout),
        "timeout": timedelta(seconds=settings.read_timeout),
    }
    endpoint = str(config.get("endpoint", ""))
    if endpoint.startswith("http://"):
        if not settings.allow_http and not is_loopback(urlsplit(endpoint).netloc):
            raise Problem(
                Reason.UNSUPPORTED_URI,
                f"the endpoint {endpoint} is in clear text: use https://, or set LONGSHORE_ALLOW_HTTP=true "
                "on a trusted network",
            )
        client["allow_http"] = True
    retry: dict[str, Any] = {"max_retries": settings.attempts - 1, "retry_timeout": timedelta(seconds=120)}
    if uri.scheme == "s3":
        return S3Store(uri.host, config=config, client_options=client, retry_config=retry)  # type: ignore[arg-type]
    if uri.scheme == "gs":
        return GCSStore(uri.host, config=config, client_options=client, retry_config=retry)  # type: ignore[arg-type]
    return AzureStore(uri.host, config=config, client_options=client, retry_config=retry)  # type: ignore[arg-type]


def store_problem(error: Exception, what: str) -> Problem:
    """Turn obstore's exceptions into sentences."""
    from obstore import exceptions

    text = " ".join(str(error).split())[:300]
    if isinstance(error, (exceptions.NotFoundError, FileNotFoundError)):
        return Problem(Reason.NOT_FOUND, f"{what} does not exist: correct the uri or upload the file")
    if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)) or any(
        code in text for code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
    ):
        return Problem(
            Reason.ACCESS_DENIED,
            f"access to {what} was refused: name a Secret with valid keys (AWS_ACCESS_KEY_ID, ...) in "
            "credentials.secretName",
        )
    return Problem(
        Reason.FETCH_FAILED,
        f"cannot read {what}: {text}; check the endpoint and the network policy",
        retryable=True,
    )


async def download(
    uri: Uri, destination: Path, settings: FetchSettings, credentials: Credentials
) -> tuple[Path, str, int]:
    """Fetch an object, or every object under the prefix where no such object exists.

    Gives the path (a file or a directory inside `destination`), its SHA-256 and the size in bytes.

    Raises:
        Problem: NotFound, AccessDenied, FetchFailed, TooLarge, UnsafeArchive or DiskFull.
    """
    import obstore
    from obstore.exceptions import BaseError

    store = open_store(uri, settings, credentials)
    try:
        try:
            await obstore.head_async(store, uri.path)
        except FileNotFoundError:
            return await _download_prefix(store, uri, destination, settings)
        target = destination / (uri.name or "model")
        digest, size = await _download_object(store, uri.path, target, settings, settings.max_bytes, uri.text)
        return target, digest, size
    except (BaseError, FileNotFoundError, PermissionError) as error:
        raise store_problem(error, uri.text) from error


async def _download_prefix(
    store: "ObjectStore", uri: Uri, destination: Path, settings: FetchSettings
) -> tuple[Path, str, int]:
    import obstore

    prefix = uri.path.rstrip("/")
    root = destination / "files"
    total = count = 0
    async for batch in obstore.list(store, prefix=prefix or None):
        for entry in batch:
            relative = (
                PurePosixPath(entry["path"]).relative_to(prefix) if prefix else PurePosixPath(entry["path"])
            )
            if entry["path"].endswith("/"):
                continue
            if relative.is_absolute() or ".." in relative.parts or not relative.parts:
                raise Problem(
                    Reason.UNSAFE_ARCHIVE,
                    f"the object {entry['path']!r} points outside its prefix: rename or remove it",
                )
            count += 1
            if count > settings.max_files:
                raise Problem(
                    Reason.TOO_LARGE,
                    f"{uri.text} holds more than {settings.max_files} objects: name a narrower prefix",
                )
            target = root.joinpath(*relative.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            _, size = await _download_object(
                store, entry["path"], target, settings, settings.max_bytes - total, uri.text
            )
            total += size
    if count == 0:
        raise Problem(Reason.NOT_FOUND, f"{uri.text} does not exist: correct the uri or upload the file")
    return root, tree_sha256(root), total


async def _download_object(
    store: "ObjectStore", key: str, target: Path, settings: FetchSettings, limit: int, what: str
) -> tuple[str, int]:
    import obstore

    result = await obstore.get_async(store, key)
    expected = result.meta["size"]
    with Sink(target, limit, what) as sink:
        async for chunk in result.stream(min_chunk_size=1 << 20):
            sink.write(bytes(chunk))
            settings.progress(sink.size, expected)
        if sink.size != expected:
            raise Problem(
                Reason.TRUNCATED,
                f"{what} gave {sink.size} of {expected} bytes: upload it again",
                retryable=True,
            )
        return sink.sha256, sink.size
