"""What the converting process answers."""

from longshore.artifact.base import Wire


class Converted(Wire):
    """The ONNX model lies where it was asked for; errors are against the source framework on the samples."""

    framework: str
    samples: int
    max_absolute_error: float
    max_relative_error: float
    disagreements: int
    worst_output: str = ""


class Refused(Wire):
    """Why not: a reason of `longshore_optimizer.errors` and a sentence."""

    reason: str
    message: str
