"""The demo: from nothing to a model that answers, optimized with proof, on a real cluster."""
