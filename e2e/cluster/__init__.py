"""A real one-node Kubernetes for this project, built from source where there is no Docker.

`python -m e2e.cluster up` starts it; `e2e.cluster.apiserver.start` runs just the API server for fast tests.
"""
