"""Steady load on a model, with every answer counted."""

import asyncio
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import numpy as np

from e2e.kit.model_deployment import ModelDeployment, request_body


@dataclass
class Load:
    """Requests at a steady rate from a thread of its own: half on kept connections, half on fresh ones."""

    target: ModelDeployment
    inputs: Mapping[str, np.ndarray[Any, Any]]
    rate: float = 50.0
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    times: list[tuple[float, str]] = field(default_factory=list)

    def ask(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> float:
        """Ask something else from now on; gives the moment, seconds since the epoch."""
        self._body = request_body(inputs)
        return time.time()

    def __enter__(self) -> Self:
        self.ask(self.inputs)
        self._stop = threading.Event()
        address = self.url or f"{self.target.address()}/v2/models/{self.target.name}/infer"
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(address)), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    @property
    def sent(self) -> int:
        """Answers and failures so far."""
        return sum(self.outcomes.values())

    @property
    def in_a_row(self) -> int:
        """How many of the latest were answered with 200, none between them otherwise."""
        outcomes = [outcome for _, outcome in self.times]
        return next(
            (count for count, outcome in enumerate(reversed(outcomes)) if outcome != "200"), len(outcomes)
        )

    async def _run(self, address: str) -> None:
        # Reading the certificate authorities anew for each client would cost more than the requests.
        self._tls = ssl.create_default_context()
        waiting: set[asyncio.Task[None]] = set()
        async with self._client() as kept:
            began, count = time.monotonic(), 0
            while not self._stop.is_set():
                task = asyncio.create_task(self._ask(kept, address, fresh=count % 2 == 0))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                count += 1
                await asyncio.sleep(max(0.0, began + count / self.rate - time.monotonic()))
            await asyncio.gather(*waiting)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=30, headers=dict(self.headers), verify=self._tls)

    async def _ask(self, kept: httpx.AsyncClient, address: str, fresh: bool) -> None:
        body = self._body
        try:
            if fresh:
                async with self._client() as client:
                    answer = await client.post(address, content=body)
            else:
                answer = await kept.post(address, content=body)
            outcome = str(answer.status_code)
            if answer.status_code != 200:
                self.failures.append(f"{outcome}: {answer.text[:200]}")
        except httpx.HTTPError as error:
            outcome = type(error).__name__
            self.failures.append(f"{outcome}: {error}")
        self.outcomes[outcome] += 1
        self.times.append((time.time(), outcome))
