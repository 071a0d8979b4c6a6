"""Opens the store that a uri names."""

from dataclasses import replace
from pathlib import Path

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.registry import parse_reference
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.uri import parse
from longshore_optimizer.fetch.volume import volume_path
from longshore_optimizer.store.base import Store
from longshore_optimizer.store.bucket import BucketStore
from longshore_optimizer.store.directory import DirectoryStore
from longshore_optimizer.store.registry import RegistryStore


def open_store(uri_text: str, settings: FetchSettings, scratch: Path, *, plain_http: bool = False) -> Store:
    """Open a store: `oci://host/repository`, `s3://`, `gs://`, `az://`, `pvc://claim/path` or `file:///path`.

    Raises:
        Problem: UnsupportedUri.
    """
    uri = parse(uri_text)
    if uri.scheme == "oci":
        if plain_http:
            settings = replace(settings, plain_http_hosts=settings.plain_http_hosts | {uri.host})
        return RegistryStore(parse_reference(uri), settings, scratch)
    if uri.scheme in ("s3", "gs", "az"):
        return BucketStore(uri, settings)
    if uri.scheme == "pvc":
        return DirectoryStore(volume_path(uri, settings), uri.text)
    if uri.scheme == "file":
        return DirectoryStore(Path(uri.path), uri.text)
    raise Problem(
        Reason.UNSUPPORTED_URI,
        f"artifacts cannot be stored at {uri_text}: use oci://, s3://, gs://, az:// or pvc://",
    )
