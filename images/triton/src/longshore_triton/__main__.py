"""`python -m longshore_triton`."""

from longshore_triton.cli import main

raise SystemExit(main())
