"""The tick: ask the pods of every ModelDeployment that needs it, all at once, and wake its reconcile."""

import asyncio
import logging
import time
from collections.abc import Callable

from longshore.api.serving import RuntimeName
from longshore.index import Index, Key
from longshore.observe import pod_view
from longshore.plan.analysis.settings import LOOK_SECONDS
from longshore.plan.mirror import Mirroring
from longshore.plan.telemetry import PodReading, Telemetry
from longshore.resources.names import COMPONENT, REVISION, RUNTIME, SERVER
from longshore.runtimes.base import MetricSource
from longshore.runtimes.registry import runtime_of
from longshore.scrape import Scraper, ScrapeTarget
from longshore.senses import Senses

_LOGGER = logging.getLogger(__name__)


async def listen(index: Index, senses: Senses, wake: Callable[[Key], None], scraper: Scraper) -> None:
    """Run until cancelled; a round that takes longer than the tick delays the next one."""
    while True:
        began = time.monotonic()
        try:
            await one_round(index, senses, wake, scraper)
        except Exception:
            _LOGGER.exception("a round of counters failed; the next one follows")
        await asyncio.sleep(max(0.1, began + LOOK_SECONDS - time.monotonic()))


async def one_round(index: Index, senses: Senses, wake: Callable[[Key], None], scraper: Scraper) -> None:
    """Ask every pod of every key that is listened to, once."""
    keys = sorted(senses.listening)
    targets = {
        key: targets_of(index, key, key in senses.predicting, senses.mirroring.get(key)) for key in keys
    }
    heard = await scraper.read([target for wanted in targets.values() for target in wanted])
    by_pod: dict[str, PodReading] = {reading.uid: reading for reading in heard.readings}
    for key, wanted in targets.items():
        senses.telemetry[key] = Telemetry(
            heard.at,
            tuple(by_pod[t.uid] for t in wanted if t.uid in by_pod),
            {t.pod: heard.unanswered[t.pod] for t in wanted if t.pod in heard.unanswered},
        )
        wake(key)


def targets_of(
    index: Index, key: Key, predictions: bool = False, mirroring: Mirroring | None = None
) -> tuple[ScrapeTarget, ...]:
    """Give the serving pods of a ModelDeployment that have an address, with where each runtime tells."""
    sources = _sources(index, key)
    found = []
    for (kind, _), obj in index.children(key).items():
        if kind != "Pod" or obj["metadata"].get("labels", {}).get(COMPONENT) != SERVER:
            continue
        pod = pod_view(obj)
        if pod.ip is None or pod.deleting or pod.revision not in sources:
            continue
        uid = obj["metadata"]["uid"]
        found.append(
            ScrapeTarget(
                pod.name,
                uid,
                pod.revision,
                pod.ip,
                str(pod.restarts),
                sources[pod.revision],
                predictions,
                mirroring if mirroring is not None and mirroring.stable == pod.revision else None,
            )
        )
    return tuple(found)


def _sources(index: Index, key: Key) -> dict[str, MetricSource]:
    found = {}
    for (kind, _), obj in index.children(key).items():
        if kind != "Deployment" or obj["metadata"]["labels"].get(COMPONENT) != SERVER:
            continue
        name = obj["metadata"].get("annotations", {}).get(RUNTIME, RuntimeName.ONNX_RUNTIME)
        runtime = runtime_of(RuntimeName(name)) if name in list(RuntimeName) else None
        if runtime is not None:
            found[obj["metadata"]["labels"][REVISION]] = runtime.metrics
    return found
