"""Replays a request trace against simulated pods under different scalers; pure, no cluster."""
