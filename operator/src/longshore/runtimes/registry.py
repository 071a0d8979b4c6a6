"""Which runtimes there are: a new one is a file beside this one and a line here."""

from longshore.api.serving import RuntimeName
from longshore.runtimes.base import Runtime
from longshore.runtimes.onnxruntime import OnnxRuntime

_RUNTIMES: dict[RuntimeName, Runtime] = {runtime.name: runtime for runtime in (OnnxRuntime(),)}


def runtime_of(name: RuntimeName) -> Runtime | None:
    """Find the runtime of that name; None where it is not built yet."""
    return _RUNTIMES.get(name)
