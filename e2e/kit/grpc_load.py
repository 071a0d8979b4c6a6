"""Steady gRPC load on a model by Triton's client, with every failure told."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import tritonclient.grpc as triton

from e2e.kit.model_deployment import ModelDeployment

_PORT = 8081
_FRESH_EVERY = 5


@dataclass
class GrpcLoad:
    """One request after the other from a thread of its own, `rate` a second: most on one kept channel, every
    fifth on a fresh one.
    """

    target: ModelDeployment
    inputs: Mapping[str, np.ndarray[Any, Any]]
    rate: float = 20.0
    place: str | None = None
    """HOST:PORT; the model's Service where it is not given."""
    authority: str | None = None
    """Host name by which a gateway chooses the model."""
    sent: int = 0
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._place = self.place or f"{urlsplit(self.target.address()).hostname}:{_PORT}"
        self._tensors = []
        for name, array in self.inputs.items():
            tensor = triton.InferInput(name, list(array.shape), "FP32")
            tensor.set_data_from_numpy(array.astype(np.float32))
            self._tensors.append(tensor)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        began = time.monotonic()
        with self._client() as kept:
            while not self._stop.wait(max(0.0, began + self.sent / self.rate - time.monotonic())):
                if self.sent % _FRESH_EVERY:
                    self._ask(kept)
                else:
                    with self._client() as fresh:
                        self._ask(fresh)
                self.sent += 1

    def _client(self) -> Any:
        named = [("grpc.default_authority", self.authority)] if self.authority else None
        return triton.InferenceServerClient(self._place, channel_args=named)

    def _ask(self, client: Any) -> None:
        try:
            client.infer(self.target.name, self._tensors, client_timeout=30)
        except triton.InferenceServerException as error:
            self.failures.append(str(error))
