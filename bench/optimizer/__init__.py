"""The optimizer on real models."""
