"""Writes the chosen model in formats for edge and mobile targets; each one is run and compared."""
