"""Mounts below a folder: found in the kernel's table, detached from the latest back."""

import ctypes
import os
import re
from pathlib import Path

_MNT_DETACH = 2  # umount2(2)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def parse(table: str) -> list[Path]:
    """The mount points in the text of /proc/self/mountinfo (proc(5): field 5, octal escapes)."""
    points = []
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            points.append(Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4])))
    return points


def inside(*folders: Path) -> list[Path]:
    """The mount points below these folders (not the folders themselves), the latest mounted first."""
    points = parse(Path("/proc/self/mountinfo").read_text())
    return [point for point in reversed(points) if any(folder in point.parents for folder in folders)]


def detach(point: Path) -> None:
    """Unmount lazily: the mount vanishes at once, its resources when nobody uses them. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(point), _MNT_DETACH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(point))


def detach_inside(*folders: Path) -> None:
    """Detach everything mounted below these folders; mounts that go meanwhile are no error."""
    for point in inside(*folders):
        try:
            detach(point)
        except OSError:
            continue  # gone with its parent; what really stays is found by the check at the end
