"""A port that another program holds is named before a component fails on it."""

import socket

import pytest

from e2e.cluster.components import require_free
from e2e.cluster.errors import ClusterError


def test_a_taken_port_is_named_with_who_needs_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"(?s)registry needs port {port}.*ss -lntp"):
            require_free("127.0.0.1", port, "registry")
        with pytest.raises(ClusterError, match="registry needs port"):
            require_free("0.0.0.0", port, "registry")
    require_free("127.0.0.1", port, "registry")
