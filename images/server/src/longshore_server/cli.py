"""The `longshore-server` command."""

import sys
from collections.abc import Sequence
from pathlib import Path

from longshore_server import artifact, config, logs, workers
from longshore_server.errors import StartupError


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    termination_log = Path("/dev/termination-log")
    try:
        settings = config.parse(sys.argv[1:] if arguments is None else arguments)
        termination_log = settings.termination_log
        logs.configure(settings.log_level)
        return workers.run(settings, artifact.locate(settings.model))
    except StartupError as error:
        logs.report_startup_failure(error, termination_log)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
