"""Pure decisions: Observed in, Plan out. Nothing here reads a clock, a file or a network."""
