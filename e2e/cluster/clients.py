"""Where kubectl and helm are: built with the node's programs, or those of PATH."""

import shutil
from collections.abc import Callable
from pathlib import Path

from e2e.cluster.build import built_programs_of_node, programs_of_node
from e2e.cluster.paths import cache_root

_CLIENTS = ("kubectl", "helm")


def programs_of_client(say: Callable[[str], None]) -> Path:
    """A folder that holds kubectl and helm; they are built only where PATH does not have both."""
    if built := built_programs_of_node():
        return built
    found = {name: shutil.which(name) for name in _CLIENTS}
    if not all(found.values()):
        return programs_of_node(say)
    folder = cache_root() / "clients"
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in found.items():
        link = folder / name
        if program and not (link.is_symlink() and link.readlink() == Path(program)):
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    return folder
