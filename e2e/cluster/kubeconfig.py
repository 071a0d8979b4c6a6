"""A kubeconfig with everything embedded, so that the file can be copied and used alone."""

import base64
import json

from e2e.cluster.pki import KeyPair


def kubeconfig(*, server: str, authority: bytes, user: str, credentials: KeyPair, context: str) -> bytes:
    """The text of a kubeconfig with one cluster, one user and one context (JSON, which is YAML)."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": context,
                    "cluster": {"server": server, "certificate-authority-data": _encode(authority)},
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _encode(credentials.certificate),
                        "client-key-data": _encode(credentials.key),
                    },
                }
            ],
            "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
            "current-context": context,
        },
        indent=2,
    ).encode()


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()
