"""Whether a canary is good, bad, or not yet known: sequential statistics that may be looked at any time."""
