"""Which runtimes there are: every module beside this one that defines `RUNTIME`.

A name that is no `RuntimeName` cannot be asked for, so a new runtime is a file here and a word in that list.
"""

import importlib
import pkgutil
from collections.abc import Mapping

from longshore import runtimes
from longshore.api.serving import RuntimeName
from longshore.runtimes.base import Runtime


def find() -> Mapping[RuntimeName, Runtime]:
    """Import every module of this package and give the runtimes that they define.

    Raises:
        RuntimeError: two modules define the same one.
    """
    found: dict[RuntimeName, Runtime] = {}
    for module in pkgutil.iter_modules(runtimes.__path__, f"{runtimes.__name__}."):
        if module.name == __name__:
            continue
        runtime: Runtime | None = getattr(importlib.import_module(module.name), "RUNTIME", None)
        if runtime is not None:
            if runtime.name in found:
                raise RuntimeError(f"two modules of {runtimes.__name__} define the runtime {runtime.name}")
            found[runtime.name] = runtime
    return found


_RUNTIMES = find()


def runtime_of(name: RuntimeName) -> Runtime | None:
    """Find the runtime of that name; None where it is not built yet."""
    return _RUNTIMES.get(name)


def metrics_ports() -> tuple[int, ...]:
    """Give the ports that pods of any runtime tell their metrics on, ascending."""
    return tuple(sorted({runtime.metrics.port for runtime in _RUNTIMES.values()}))
