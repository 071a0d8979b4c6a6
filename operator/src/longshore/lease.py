"""Leader election: one process of several works, by a Lease.

The protocol is client-go's (`tools/leaderelection`): a lease counts as expired when it was not seen to change
for its duration by the local monotonic clock, so clocks of different machines are never compared.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from longshore.cluster import Cluster, ClusterError
from longshore.resources.kinds import LEASE


@dataclass(frozen=True)
class Times:
    """Seconds: how long a lease lasts unseen, how long its holder may fail to renew, the pause between tries.

    Longer than client-go's 15, 10 and 2: an API server that a thousand new models keep busy, on a slow disk,
    leaves requests unanswered for ten seconds, and an operator that ends for it lists everything anew.
    """

    duration: float = 30.0
    renew_deadline: float = 20.0
    retry: float = 3.0


_LOGGER = logging.getLogger(__name__)


class Lease:
    """One candidate for a Lease."""

    def __init__(
        self, cluster: Cluster, namespace: str, name: str, identity: str, times: Times | None = None
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times or Times()
        self._seen: tuple[str, float] = ("", 0.0)
        self._mine: dict[str, Any] | None = None
        self._held = 0.0
        self._other: str | None = None

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then run `work` for as long as it is held; give it back at the end.

        Returns when the work ends, or when the lease is lost: then the work has been cancelled.
        """
        while not await self._try(self._times.renew_deadline):
            pause = self._times.retry * random.uniform(0.8, 1.2)  # noqa: S311 (spreads candidates, no secret)
            await asyncio.sleep(pause)
        _LOGGER.info("leading as %s", self._identity)
        task = asyncio.ensure_future(work())
        renewal = asyncio.ensure_future(self._renew())
        try:
            done, _ = await asyncio.wait({task, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if renewal in done:
                why = f"{self._other} holds it" if self._other else "it could not be renewed in time"
                _LOGGER.error("the lease %s was lost: %s", self._name, why)
            if task in done:
                await task
        finally:
            for pending in (task, renewal):
                pending.cancel()
            await asyncio.gather(task, renewal, return_exceptions=True)
            await self._release()

    async def _renew(self) -> None:
        """Renew until that failed for too long, or until another one holds the lease: two must not work."""
        while True:
            await asyncio.sleep(self._times.retry)
            left = self._held + self._times.renew_deadline - time.monotonic()
            if left <= 0 or (not await self._try(left) and self._other is not None):
                return

    async def _try(self, left: float) -> bool:
        """Take or renew the lease; tell whether it is held. `_other` is who was seen to hold it instead.

        It counts as held from the moment when it was asked for: another one may see it change no earlier.
        """
        self._other = None
        asked = time.monotonic()
        mine, self._mine = self._mine, None
        try:
            async with asyncio.timeout(min(left, self._times.renew_deadline / 2)):
                self._mine = await self._again(mine) or await self._take()
        except (ClusterError, TimeoutError) as error:
            if not isinstance(error, ClusterError) or error.status != 409:
                why = str(error) or "no answer in time"
                _LOGGER.warning("the lease %s could not be renewed: %s", self._name, why)
        if self._mine is None:
            return False
        self._held = asked
        return True

    async def _again(self, mine: dict[str, Any] | None) -> dict[str, Any] | None:
        """Renew what was held last, without a look first; None where it has been changed since."""
        if mine is None:
            return None
        try:
            renewed = self._object(mine["metadata"], self._spec(mine["spec"]))
            return await self._cluster.replace(LEASE, renewed)
        except ClusterError as error:
            if error.status not in (404, 409):
                raise
            return None

    async def _take(self) -> dict[str, Any] | None:
        lease = await self._cluster.get(LEASE, self._namespace, self._name)
        if lease is None:
            return await self._cluster.create(LEASE, self._object({}, self._spec({})))
        spec = lease.get("spec", {})
        if not self._may_take(lease, spec):
            self._other = spec["holderIdentity"]
            return None
        return await self._cluster.replace(LEASE, self._object(lease["metadata"], self._spec(spec)))

    def _may_take(self, lease: dict[str, Any], spec: dict[str, Any]) -> bool:
        holder = spec.get("holderIdentity")
        if not holder or holder == self._identity:
            return True
        version = lease["metadata"]["resourceVersion"]
        now = time.monotonic()
        if version != self._seen[0]:
            self._seen = (version, now)
        return bool(now - self._seen[1] >= spec.get("leaseDurationSeconds", self._times.duration))

    def _spec(self, before: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = before.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._times.duration),
            "acquireTime": before.get("acquireTime", now) if same else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (not same),
        }

    def _object(self, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {**metadata, "name": self._name, "namespace": self._namespace},
            "spec": spec,
        }

    async def _release(self) -> None:
        """Give the lease back, so that the next one need not wait for it to expire."""
        try:
            async with asyncio.timeout(2):
                lease = await self._cluster.get(LEASE, self._namespace, self._name)
                if lease is not None and lease.get("spec", {}).get("holderIdentity") == self._identity:
                    spec = {**self._spec(lease["spec"]), "holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._cluster.replace(LEASE, self._object(lease["metadata"], spec))
        except (ClusterError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            _LOGGER.warning("the lease %s was not given back: %s", self._name, why)
