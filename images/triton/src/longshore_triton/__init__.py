"""Starts Triton Inference Server: builds the model repository from a model, then watches the server."""
