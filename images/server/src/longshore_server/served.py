"""One served model: its name, what it takes and gives, and the way to its batcher."""

from dataclasses import dataclass

from longshore_server.batcher import Batcher
from longshore_server.inference import Admission, Work
from longshore_server.metrics import Metrics
from longshore_server.session import Signature


@dataclass(slots=True)
class ServedModel:
    """What every protocol knows about the model. `max_batch_size` is 0 when rows are never joined."""

    name: str
    version: str
    admission: Admission
    batcher: Batcher
    metrics: Metrics
    max_batch_size: int
    ready: bool = False
    draining: bool = False

    @property
    def signature(self) -> Signature:
        """Inputs and outputs."""
        return self.admission.signature

    def submit(self, work: Work) -> None:
        """Take a request. Raises `RequestError` when it cannot be queued."""
        self.batcher.submit(work)

    @property
    def is_ready(self) -> bool:
        """Whether every worker has warmed up and none has been told to stop."""
        return self.ready and not self.draining and self.metrics.all_ready
