"""What the process may use and what the machine is: CPU limit from the cgroup, CPU flags, versions."""

import math
import os
import platform
from importlib import metadata
from pathlib import Path

from longshore_optimizer.measure.process import Cores

_CGROUP = Path("/sys/fs/cgroup")
_PACKAGES = ("longshore-optimizer", "onnx", "onnxruntime", "numpy", "scikit-learn", "skl2onnx", "onnxslim")


def cgroup_limit(root: Path = _CGROUP) -> float | None:
    """CPU limit of this container in cores, None where there is none (cgroup v2, then v1)."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 else None


def usable_cores(wanted: float | None = None) -> Cores:
    """Decide the CPU that measurements use: the wanted number of cores within the cgroup's limit and
    affinity."""
    affinity = sorted(os.sched_getaffinity(0))
    limit = min(filter(None, (wanted, cgroup_limit(), float(len(affinity)))))
    threads = max(1, min(math.ceil(limit), len(affinity)))
    return Cores(threads, tuple(affinity[:threads]), limit)


def memory_bytes() -> int:
    """Memory that is left for this container, in bytes."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            used = int((_CGROUP / "memory.current").read_text())
            return max(int(limit) - used, 0)
    except (OSError, ValueError):
        pass
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2 << 30


def cpu_flags() -> tuple[str, ...]:
    """Flags of the CPU that decide which kernels run, sorted (all flags as the kernel names them)."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return tuple(sorted(set(line.split(":", 1)[1].split())))
    except OSError:
        pass
    return ()


def has_vnni(flags: tuple[str, ...]) -> bool:
    """Tell whether 8-bit products add up without saturation on this CPU (x86 VNNI; other kinds do not
    saturate)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return any(f in flags for f in ("avx512_vnni", "avx_vnni", "avx512vnni"))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
