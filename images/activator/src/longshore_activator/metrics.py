"""Prometheus metrics, read from the routes' own counts when scraped: nothing on the data path."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from longshore_activator.activator import Activator

_COUNTERS = {
    "accepted": "Connections accepted.",
    "spliced": "Connections joined to a pod.",
    "refused": "Connections reset because a bound was reached or the model was removed.",
    "expired": "Connections reset because no pod was ready in time.",
    "left": "Connections whose client left while it waited.",
    "dial_failures": "Connections to a pod that failed and were tried elsewhere or held again.",
}


class ActivatorCollector(Collector):
    """Reads an `Activator`."""

    def __init__(self, activator: Activator) -> None:
        self._activator = activator

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        activator = self._activator
        for name, value, text in (
            ("draining", float(activator.draining), "1 while the process is shutting down."),
            ("event_streams", float(len(activator.hub)), "Operators that listen for demand."),
            ("held_bytes", float(activator.held_bytes), "Bytes read from connections that wait."),
            ("config_version", float(activator.version), "Version of the routes in force, -1 before any."),
        ):
            yield GaugeMetricFamily(f"longshore_activator_{name}", text, value=value)
        held = GaugeMetricFamily(
            "longshore_activator_held_connections", "Connections that wait for a pod.", labels=["model"]
        )
        active = GaugeMetricFamily(
            "longshore_activator_active_connections", "Connections joined to a pod.", labels=["model"]
        )
        waited = CounterMetricFamily(
            "longshore_activator_hold_seconds",
            "Time that joined connections waited, in seconds.",
            labels=["model"],
        )
        counters = {
            name: CounterMetricFamily(f"longshore_activator_{name}", text, labels=["model"])
            for name, text in _COUNTERS.items()
        }
        for route in activator.routes:
            labels = [route.key]
            held.add_metric(labels, route.held)
            active.add_metric(labels, route.active)
            waited.add_metric(labels, route.hold_seconds_sum)
            for name, family in counters.items():
                family.add_metric(labels, getattr(route.counts, name))
        yield from (held, active, waited, *counters.values())


def registry_of(activator: Activator) -> CollectorRegistry:
    """Give a registry that holds only this activator's metrics."""
    registry = CollectorRegistry()
    registry.register(ActivatorCollector(activator))
    return registry
