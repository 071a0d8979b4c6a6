"""The model server of Longshore: one ONNX model behind the protocols that inference clients speak."""

__version__ = "0.1.0"
