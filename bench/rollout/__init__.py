"""Rollouts, measured."""
