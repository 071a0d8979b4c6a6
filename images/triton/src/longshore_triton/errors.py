"""The one error that ends a start: what is wrong with what was asked for."""


class StartError(Exception):
    """Triton cannot serve this; `str()` is a sentence with the cause and the next step.

    Attributes:
        reason: one CamelCase word for the status of the ModelDeployment.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
