"""End-to-end: a local cluster from source, and scenarios on it."""
