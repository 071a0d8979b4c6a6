"""Which NVIDIA GPU this process sees, by `nvidia-smi`, which a GPU's container gets with the driver.

Columns: `nvidia-smi --help-query-gpu`; slices of a GPU are listed by `nvidia-smi -L`
(https://docs.nvidia.com/datacenter/tesla/mig-user-guide/).
"""

import re
import shutil
import subprocess
from dataclasses import dataclass

_SECONDS = 30.0
_QUERY = ("--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
_SLICE = re.compile(r"^\s+MIG\s+(\S+)\s+Device\s+\d+:", re.MULTILINE)
_ROW = re.compile(r"^\s*([^,]+?)\s*,\s*(\d+\.\d+)\s*,\s*([\d.]+)\s*$")


@dataclass(frozen=True)
class Gpu:
    """Its name with the profile of a MIG slice (`NVIDIA A100-SXM4-40GB MIG 1g.5gb`), compute capability such
    as `8.6`, and the driver's version."""

    name: str
    compute_capability: str
    driver: str


def find() -> Gpu | str:
    """Give the first GPU, or why none is seen."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no GPU is seen (there is no nvidia-smi)"
    told = _ask(program, *_QUERY)
    rows = [_ROW.match(line) for line in told.splitlines()]
    found = next((row for row in rows if row is not None), None)
    if found is None:
        words = " ".join(told.split())[:200] or "nothing"
        return f"no GPU is seen (nvidia-smi says: {words})"
    name, capability, driver = found.groups()
    part = _SLICE.search(_ask(program, "-L"))
    return Gpu(f"{name} MIG {part[1]}" if part else name, capability, driver)


def _ask(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout[: 1 << 16].decode(errors="replace")
