"""What /proc tells of Triton's processes: its Python stubs, their CPU time, the shared memory in use, and how
many are connected.

Source: proc(5) of the Linux manual pages.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STUB = "triton_python_b"
"""Name of `triton_python_backend_stub` as the kernel keeps it: 15 characters."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where POSIX shared memory lies)
_REGIONS = "triton_*_shm_region_*"

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"


@dataclass(frozen=True)
class Process:
    """One process; `ticks` is its CPU time so far in clock ticks."""

    pid: int
    parent: int
    name: str
    ended: bool
    ticks: int


def stubs(server: int) -> tuple[Process, ...]:
    """List the Python stubs of the server with this process id, those included that ended unnoticed."""
    return tuple(p for p in _processes() if p.parent == server and p.name == _STUB)


def cpu_ticks(server: int) -> int:
    """Add up the CPU time of the server and its stubs."""
    return sum(p.ticks for p in _processes() if server in (p.pid, p.parent))


def connections(port: int) -> int:
    """Count the connections to a port of this network namespace."""
    ending = f":{port:04X}"
    count = 0
    for table in _TABLES:
        with contextlib.suppress(OSError), table.open() as lines:
            rows = (line.split() for line in lines)
            count += sum(row[1].endswith(ending) and row[3] == _ESTABLISHED for row in rows)
    return count


def remove_left_regions() -> int:
    """Remove the shared memory of Python stubs that no process maps any more; gives the number removed.

    A server that was killed leaves its regions behind, and they count against the pod's memory.
    """
    left = {path.name: path for path in SHARED_MEMORY.glob(_REGIONS)}
    if not left:
        return 0
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            maps = (directory / "maps").read_text()
        except OSError:
            continue
        for name in [name for name in left if name in maps]:
            del left[name]
    for path in left.values():
        path.unlink(missing_ok=True)
    return len(left)


def _processes() -> Iterator[Process]:
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            stat = (directory / "stat").read_text()
        except OSError:
            continue
        # The name stands in parentheses and may hold any character.
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        rest = stat[stat.rindex(")") + 2 :].split()
        yield Process(
            pid=int(directory.name),
            parent=int(rest[1]),
            name=name,
            ended=rest[0] in ("Z", "X"),
            ticks=int(rest[11]) + int(rest[12]),
        )
