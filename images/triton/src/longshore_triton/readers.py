"""Who reads what Triton's tracing tells, and where what it writes goes."""

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from longshore_triton.log import Log
from longshore_triton.mirror import Mirror, Target
from longshore_triton.modelconfig import ModelConfig
from longshore_triton.predictions import Predictions
from longshore_triton.recent import Recent
from longshore_triton.tracing import Tracing, Watch
from longshore_triton.wanted import Wanted


@dataclass(frozen=True)
class Readers:
    """Those of one server, each asked for by the operator at a port beside Triton's own."""

    mirror: Mirror
    predictions: Predictions
    recent: Recent
    watch: Watch

    def start(self, name: str, configs: Sequence[ModelConfig], recorded: bool) -> None:
        """Begin, once the server's configuration is known.

        Args:
            name: of the model that clients ask.
            configs: of that model and of those that it is made of.
            recorded: there are requests that the optimizer left, so that none of the traffic need be kept.
        """
        config = next(config for config in configs if config.name == name)
        self.mirror.batched = self.predictions.batched = config.max_batch_size > 0
        self.mirror.outputs = frozenset(output.name for output in config.output)
        if any(config.HasField("sequence_batching") for config in configs):
            # A request of a sequence means nothing without those before it, and tells not which they were.
            self.watch.tell("requests of sequences are neither copied nor kept")
            self.watch.start(self.predictions)
        else:
            self.watch.start(self.mirror, self.predictions, *(() if recorded else (self.recent,)))


def prepare(wanted: Wanted, secret: str, directory: Path, log: Log, told: threading.Event) -> Readers | None:
    """Make the readers, where the operator gave a key and whom copies go to.

    Args:
        wanted: what the operator asks for.
        secret: opens the API of tracing.
        directory: for what Triton writes; made anew.
        log: where failures go.
        told: set when the server is to end: nothing is traced from then on.
    """
    host, _, port = wanted.mirror_target.rpartition(":")
    if not wanted.samples_key or not host or not port.isdigit():
        return None
    if find_spec("numpy") is None:
        log.say(
            "warning", "this image has no NumPy: no requests are copied (longshore-triton[measure] has it)"
        )
        return None
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    watch = Watch(Tracing(wanted.http_port, secret, wanted.name, directory), log, told)
    target = Target(host.strip("[]"), int(port), wanted.name, wanted.samples_key)
    mirror = Mirror(target, watch.tell, watch.wake)
    return Readers(mirror, Predictions(watch.wake), Recent(), watch)
