"""Takes uris apart, and refuses the ones that nothing here can read."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from longshore_optimizer.errors import Problem, Reason

SCHEMES = ("https", "http", "s3", "gs", "az", "oci", "hf", "pvc", "file")


@dataclass(frozen=True)
class Uri:
    """A uri taken apart: `path` is unquoted and has no leading slash, except for `file`."""

    text: str
    scheme: str
    host: str
    path: str

    @property
    def name(self) -> str:
        """Last part of the path, for messages and file names."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]


def parse(text: str) -> Uri:
    """Take a uri apart.

    Raises:
        Problem: UnsupportedUri for an unknown scheme, a missing host or embedded credentials.
    """
    if "://" not in text:
        raise Problem(
            Reason.UNSUPPORTED_URI,
            f"{text!r} is no uri: write one such as https://host/model.onnx or oci://host/name:tag",
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Problem(
            Reason.UNSUPPORTED_URI, f"{text!r} is no valid uri: {error}; correct model.uri"
        ) from error
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        raise Problem(
            Reason.UNSUPPORTED_URI,
            f"the scheme {scheme}:// is not supported: use one of {', '.join(SCHEMES[:-1])}",
        )
    if parts.username or parts.password:
        raise Problem(
            Reason.UNSUPPORTED_URI,
            "the uri holds a user name or password: put them into a Secret and name it in "
            "credentials.secretName",
        )
    if scheme == "file":
        return Uri(text, scheme, "", unquote(parts.path))
    if not parts.hostname:
        raise Problem(Reason.UNSUPPORTED_URI, f"{text!r} names no host: write {scheme}://host/path")
    host = parts.netloc if port is not None else parts.hostname
    return Uri(text, scheme, host, unquote(parts.path).lstrip("/"))


def is_loopback(host: str) -> bool:
    """Tell whether a host (with or without port) is this machine itself."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
