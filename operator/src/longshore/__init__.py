"""Longshore: a Kubernetes operator for model deployments."""
