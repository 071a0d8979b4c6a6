"""What the CPU cannot do right."""

import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
_ADDS_RIGHT = frozenset({"avx512_vnni", "avx_vnni"})


def sums_saturate(machine: str | None = None, cpu_info: Path = CPU_INFO) -> bool:
    """Tell whether sums of products of all 8 bits may not fit into what this CPU adds them in.

    x86 without VNNI adds two products in 16 bits (VPMADDUBSW); one whose flags cannot be read counts as such.
    """
    if (machine or platform.machine()) not in ("x86_64", "AMD64"):
        return False
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return True
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return _ADDS_RIGHT.isdisjoint(flags)
