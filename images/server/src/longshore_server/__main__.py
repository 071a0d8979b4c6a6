"""`python -m longshore_server`: the same as the `longshore-server` command."""

import sys

from longshore_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
