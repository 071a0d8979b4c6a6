"""What can go wrong, as one exception with a stable reason word, a sentence and whether to try again."""

from enum import StrEnum


class Reason(StrEnum):
    """Stable CamelCase words; the Job's report and the exit code of the command line are made from them."""

    INVALID_REQUEST = "InvalidRequest"
    UNSUPPORTED_URI = "UnsupportedUri"
    CREDENTIALS_MISSING = "CredentialsMissing"
    FETCH_FAILED = "FetchFailed"
    NOT_FOUND = "NotFound"
    ACCESS_DENIED = "AccessDenied"
    TOO_LARGE = "TooLarge"
    TRUNCATED = "Truncated"
    DIGEST_MISMATCH = "DigestMismatch"
    UNSAFE_ARCHIVE = "UnsafeArchive"
    AMBIGUOUS_MODEL = "AmbiguousModel"
    UNKNOWN_FORMAT = "UnknownFormat"
    FORMAT_MISMATCH = "FormatMismatch"
    UNSUPPORTED_FORMAT = "UnsupportedFormat"
    INVALID_MODEL = "InvalidModel"
    EXTERNAL_DATA_ESCAPES = "ExternalDataEscapes"
    EXTERNAL_DATA_MISSING = "ExternalDataMissing"
    UNSUPPORTED_OPERATOR = "UnsupportedOperator"
    PICKLE_NOT_ALLOWED = "PickleNotAllowed"
    CONVERSION_FAILED = "ConversionFailed"
    PARITY_FAILED = "ParityFailed"
    INVALID_DATA = "InvalidData"
    DATA_SHAPE_MISMATCH = "DataShapeMismatch"
    DATA_TYPE_MISMATCH = "DataTypeMismatch"
    EMPTY_DATA = "EmptyData"
    LABELS_MISSING = "LabelsMissing"
    UNKNOWN_METRIC = "UnknownMetric"
    METRIC_FAILED = "MetricFailed"
    NAN_OUTPUT = "NanOutput"
    INFERENCE_FAILED = "InferenceFailed"
    NO_CANDIDATE = "NoCandidate"
    UNKNOWN_TECHNIQUE = "UnknownTechnique"
    OUT_OF_MEMORY = "OutOfMemory"
    DISK_FULL = "DiskFull"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    STORE_FAILED = "StoreFailed"
    INTERNAL_ERROR = "InternalError"


class Problem(Exception):  # noqa: N818 - it is a message for the user before it is an error
    """A failure to tell the user: `message` names the cause and the next step.

    `retryable` says whether the same request can succeed later without a change by the user.
    """

    def __init__(self, reason: Reason, message: str, *, retryable: bool = False) -> None:
        """Keep the three parts; `str()` gives the message."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FETCH = 3
EXIT_MODEL = 4
EXIT_DATA = 5
EXIT_NO_CANDIDATE = 6
EXIT_RESOURCES = 7

_EXIT_CODES = {
    Reason.INVALID_REQUEST: EXIT_USAGE,
    Reason.UNKNOWN_METRIC: EXIT_USAGE,
    Reason.UNKNOWN_TECHNIQUE: EXIT_USAGE,
    Reason.UNSUPPORTED_URI: EXIT_FETCH,
    Reason.CREDENTIALS_MISSING: EXIT_FETCH,
    Reason.FETCH_FAILED: EXIT_FETCH,
    Reason.NOT_FOUND: EXIT_FETCH,
    Reason.ACCESS_DENIED: EXIT_FETCH,
    Reason.TOO_LARGE: EXIT_FETCH,
    Reason.TRUNCATED: EXIT_FETCH,
    Reason.DIGEST_MISMATCH: EXIT_FETCH,
    Reason.UNSAFE_ARCHIVE: EXIT_FETCH,
    Reason.AMBIGUOUS_MODEL: EXIT_MODEL,
    Reason.UNKNOWN_FORMAT: EXIT_MODEL,
    Reason.FORMAT_MISMATCH: EXIT_MODEL,
    Reason.UNSUPPORTED_FORMAT: EXIT_MODEL,
    Reason.INVALID_MODEL: EXIT_MODEL,
    Reason.EXTERNAL_DATA_ESCAPES: EXIT_MODEL,
    Reason.EXTERNAL_DATA_MISSING: EXIT_MODEL,
    Reason.UNSUPPORTED_OPERATOR: EXIT_MODEL,
    Reason.PICKLE_NOT_ALLOWED: EXIT_MODEL,
    Reason.CONVERSION_FAILED: EXIT_MODEL,
    Reason.PARITY_FAILED: EXIT_MODEL,
    Reason.NAN_OUTPUT: EXIT_MODEL,
    Reason.INFERENCE_FAILED: EXIT_MODEL,
    Reason.INVALID_DATA: EXIT_DATA,
    Reason.DATA_SHAPE_MISMATCH: EXIT_DATA,
    Reason.DATA_TYPE_MISMATCH: EXIT_DATA,
    Reason.EMPTY_DATA: EXIT_DATA,
    Reason.LABELS_MISSING: EXIT_DATA,
    Reason.METRIC_FAILED: EXIT_DATA,
    Reason.NO_CANDIDATE: EXIT_NO_CANDIDATE,
    Reason.OUT_OF_MEMORY: EXIT_RESOURCES,
    Reason.DISK_FULL: EXIT_RESOURCES,
    Reason.DEADLINE_EXCEEDED: EXIT_RESOURCES,
}


def exit_code(reason: Reason) -> int:
    """The process's exit code for a reason; the table stands in the package's README."""
    return _EXIT_CODES.get(reason, EXIT_FAILED)
