"""Credentials as a mounted Secret gives them: a directory with one file a key."""

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from longshore_optimizer.errors import Problem, Reason

_LIMIT = 1 << 20


@dataclass(frozen=True)
class Credentials:
    """Keys and values of a Secret; values are never printed."""

    values: dict[str, str]

    def __repr__(self) -> str:
        """Name the keys only."""
        return f"Credentials({', '.join(sorted(self.values))})"

    def get(self, *names: str) -> str | None:
        """Give the first value that is there, in the order of `names`."""
        return next((self.values[n] for n in names if self.values.get(n)), None)

    @property
    def basic(self) -> tuple[str, str] | None:
        """User name and password, where both are given."""
        user, password = self.get("username"), self.get("password")
        return (user, password) if user is not None and password is not None else None

    def for_registry(self, host: str) -> tuple[str, str] | None:
        """User name and password for a registry: from `.dockerconfigjson`, else the plain pair."""
        text = self.get(".dockerconfigjson", "config.json")
        if text is None:
            return self.basic
        try:
            auths = json.loads(text).get("auths", {})
            entry = next((auths[k] for k in auths if _registry_host(k) == host), None)
            if entry is None:
                return self.basic
            if entry.get("username") is not None and entry.get("password") is not None:
                return str(entry["username"]), str(entry["password"])
            user, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        except (ValueError, AttributeError, KeyError, TypeError, binascii.Error) as error:
            raise Problem(
                Reason.CREDENTIALS_MISSING,
                "the Secret's .dockerconfigjson is not readable: create it with "
                "`kubectl create secret docker-registry`",
            ) from error
        return user, password


def _registry_host(key: str) -> str:
    host = key.split("://", 1)[-1].split("/", 1)[0]
    return "registry-1.docker.io" if host in ("index.docker.io", "docker.io") else host


def load(directory: Path | None) -> Credentials:
    """Read a mounted Secret; no directory means no credentials.

    Raises:
        Problem: CredentialsMissing where the directory was promised but is not there, or is empty: the
            operator mounts a Secret as optional, in a directory of its name.
    """
    if directory is None:
        return Credentials({})
    if not directory.is_dir():
        raise Problem(
            Reason.CREDENTIALS_MISSING,
            f"the credentials directory {directory} does not exist: create the Secret that "
            "credentials.secretName names",
        )
    values = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("..") or not path.is_file():
            continue
        if path.stat().st_size > _LIMIT:
            continue
        values[path.name] = path.read_text(encoding="utf-8", errors="strict").strip()
    if not values:
        raise Problem(
            Reason.CREDENTIALS_MISSING,
            f"the Secret {directory.name} does not exist or is empty: create it in the namespace of the "
            "ModelDeployment",
        )
    return Credentials(values)
