"""Free ports for servers that are started as processes of their own."""

import os
import random
import socket

_FIRST, _OF_EACH, _WORKERS = 12_000, 2_000, 8
"""Below the ports that the kernel gives to clients (from 32,768 on, net.ipv4.ip_local_port_range) and those
of Kubernetes' services (from 30,000 on): between the choice of a port and the start of its server nobody
takes it. Each worker of pytest-xdist has a range of its own."""


def free_ports(count: int) -> list[int]:
    """Give ports of 127.0.0.1 that nobody listens on.

    Raises:
        RuntimeError: the whole range is taken.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = _FIRST + (int(worker) if worker.isdigit() else 0) % _WORKERS * _OF_EACH
    found: list[int] = []
    for port in random.sample(range(first, first + _OF_EACH), _OF_EACH):
        if len(found) == count:
            return found
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    raise RuntimeError(f"no {count} ports are free from {first} to {first + _OF_EACH}")
