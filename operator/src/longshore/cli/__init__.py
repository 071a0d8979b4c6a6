"""The command line: `longshore` and, under the name `kubectl-longshore`, a kubectl plug-in."""
