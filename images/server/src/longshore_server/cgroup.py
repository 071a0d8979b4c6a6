"""What the container may use: processors and memory from its cgroup (version 1 or 2), not from the host."""

import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")


def cpu_limit(root: Path = _ROOT, membership: Path = _SELF) -> float:
    """Processors that this process may use: the smallest of every cgroup quota above it and its affinity
    mask.
    """
    found = [float(len(os.sched_getaffinity(0)))]
    for directory in _ancestors(root, membership, "cpu"):
        if (text := _read(directory / "cpu.max")) is not None:
            quota, _, period = text.partition(" ")
            found += _ratio(quota, period or "100000")
        elif (quota_us := _read(directory / "cpu.cfs_quota_us")) is not None:
            found += _ratio(quota_us, _read(directory / "cpu.cfs_period_us") or "")
    return min(found)


def memory_limit(root: Path = _ROOT, membership: Path = _SELF) -> int | None:
    """Bytes of memory that this process may use by its cgroup; None without a limit."""
    found = []
    for directory in _ancestors(root, membership, "memory"):
        text = _read(directory / "memory.max") or _read(directory / "memory.limit_in_bytes")
        # Version 1 says "no limit" by a number near 2**63.
        if text and text.isdigit() and int(text) < 1 << 60:
            found.append(int(text))
    return min(found, default=None)


def _ancestors(root: Path, membership: Path, controller: str) -> list[Path]:
    """The cgroup directories of this process for `controller`, from its own up to the mount's root.

    In a container the root is often mounted as the process's own cgroup, while the path in
    /proc/self/cgroup is the host's: paths that do not exist are passed over.
    """
    directories = [root, root / controller]
    for line in (_read(membership) or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            directories.append(base.joinpath(*parts[:depth]))
            if controllers:
                directories.append((root / controller).joinpath(*parts[:depth]))
    return [directory for directory in dict.fromkeys(directories) if directory.is_dir()]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _ratio(quota: str, period: str) -> list[float]:
    try:
        processors = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return []  # "max", or -1 in version 1
    return [processors] if processors > 0 else []
