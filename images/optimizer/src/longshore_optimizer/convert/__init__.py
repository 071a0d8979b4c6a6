"""Turns models of other frameworks into ONNX, in a process that has neither network nor credentials."""
