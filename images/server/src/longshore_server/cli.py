"""The `longshore-server` command."""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    # What is made while starting lives on: the collector would walk it again and again for nothing. A worker
    # turns it on once it has answered.
    gc.disable()
    # NumPy's linear algebra is not used, but loading it would start a thread for each processor.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    finally:
        gc.enable()


def _run(arguments: Sequence[str]) -> int:
    from longshore_server import artifact, config, logs, workers
    from longshore_server.errors import StartupError

    termination_log = Path("/dev/termination-log")
    try:
        settings = config.parse(arguments)
        termination_log = settings.termination_log
        logs.configure(settings.log_level)
        return workers.run(settings, artifact.locate(settings.model))
    except StartupError as error:
        logs.report_startup_failure(error, termination_log)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
