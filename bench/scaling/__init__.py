"""Scaling: the planner on simulated pods, the activator on loopback, a tick of a large operator."""
