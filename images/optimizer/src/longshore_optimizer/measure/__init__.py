"""Runs models in processes of their own: what is measured there disturbs nothing and crashes nothing."""
