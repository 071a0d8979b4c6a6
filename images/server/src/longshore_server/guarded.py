"""A session on OpenVINO, and one on the CPU for what OpenVINO answers wrongly or not at all.

Seen with OpenVINO 2025.4.1: it computes with the lower 32 bits of INT64, whatever the upper ones are; for
inputs without elements it may give the answer of an earlier request; and a run that fails (on a shape that an
operator does not accept, say) leaves a state in which good inputs fail too, until other shapes come.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from longshore_server.dtypes import INT64, Array
from longshore_server.errors import RequestError, StartupError, backend_failed
from longshore_server.session import Session, SessionOptions

_log = logging.getLogger(__name__)
_LOWEST, _HIGHEST = -(1 << 31), (1 << 31) - 1
# Loading again takes at most a twentieth of the time, whatever inputs are sent.
_PAUSE = 19

Load = Callable[[Path, SessionOptions], Session]


class GuardedSession:
    """Looks like the session on OpenVINO that it guards.

    Inputs without elements or beyond 32 bits, and those on which OpenVINO fails, are run on the CPU; after a
    failure all are, until the model is loaded again. The session on the CPU is made when it is first needed.
    """

    def __init__(self, file: Path, options: SessionOptions, session: Session, load: Load = Session) -> None:
        """`session` is what `load` gave for `file` and `options`."""
        self.signature = session.signature
        self.left_out = session.left_out
        self.operators = session.operators
        self._file = file
        self._options = options
        self._load = load
        self._session: Session | None = session
        self._on_cpu: Session | None = None
        self._load_after = 0.0
        self._integers = [
            index for index, spec in enumerate(session.signature.inputs) if spec.datatype is INT64
        ]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run as `Session.run` does. Raises `RequestError`: what the CPU says of inputs that both refuse."""
        if not all(array.size for array in inputs) or any(_wide(inputs[index]) for index in self._integers):
            return self._cpu().run(inputs)
        if self._session is None and time.monotonic() >= self._load_after:
            self._load_again()
        if self._session is None:
            return self._cpu().run(inputs)
        try:
            return self._session.run(inputs)
        except RequestError as error:
            self._session = None
            _log.warning("openvino failed, the CPU answers until it is loaded again: %s", error.message)
            return self._cpu().run(inputs)

    def _load_again(self) -> None:
        began = time.monotonic()
        try:
            self._session = self._load(self._file, self._options)
        except StartupError as error:
            _log.warning("openvino could not be loaded again: %s", error)
        ended = time.monotonic()
        self._load_after = ended + _PAUSE * (ended - began)

    def _cpu(self) -> Session:
        if self._on_cpu is None:
            try:
                self._on_cpu = self._load(self._file, SessionOptions(("cpu",), self._options.threads))
            except StartupError as error:
                raise backend_failed(str(error)) from None
        return self._on_cpu


def open_session(file: Path, options: SessionOptions) -> Session | GuardedSession:
    """Load a model, guarded where OpenVINO runs any of it. Raises `StartupError`."""
    session = Session(file, options)
    on_openvino = "openvino" in options.providers and set(session.operators) != {"cpu"}
    return GuardedSession(file, options, session) if on_openvino else session


def _wide(array: Array) -> bool:
    return bool(array.min() < _LOWEST or array.max() > _HIGHEST)
