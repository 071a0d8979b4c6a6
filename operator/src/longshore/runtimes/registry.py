"""Which runtimes there are: every module beside this one that defines `RUNTIME`.

A name that is no `RuntimeName` cannot be asked for, so a new runtime is a file here and a word in that list.
"""

import importlib
import pkgutil
from collections.abc import Mapping

from longshore import runtimes
from longshore.api.serving import RuntimeName
from longshore.resources.names import HTTP_PORT
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


def samples_port(name: str) -> int:
    """Give the port at which pods of a runtime give recorded requests; the usual one for an unknown name."""
    runtime = _RUNTIMES.get(RuntimeName(name)) if name in list(RuntimeName) else None
    return runtime.samples_port if runtime is not None else HTTP_PORT


def operator_ports() -> tuple[int, ...]:
    """Give the ports at which the operator asks pods of any runtime for metrics and recorded requests."""
    every = _RUNTIMES.values()
    return tuple(sorted({port for one in every for port in (one.metrics.port, one.samples_port)}))
