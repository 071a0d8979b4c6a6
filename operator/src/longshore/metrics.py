"""Metrics of the operator itself, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Counters, histograms and gauges of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "longshore_reconcile_total", "Reconciles by result.", ["result"], registry=self.registry
        )
        self.duration = Histogram(
            "longshore_reconcile_duration_seconds",
            "Time of one reconcile, its requests included.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self.registry,
        )
        self.requests = Counter(
            "longshore_api_requests_total",
            "Requests to the API server, watches apart.",
            ["verb", "kind"],
            registry=self.registry,
        )
        self.failures = Counter(
            "longshore_reconcile_failures_total",
            "Failed reconciles by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.notifications = Counter(
            "longshore_notifications_total",
            "Tries to tell a web hook of a transition, by result.",
            ["result"],
            registry=self.registry,
        )
        self.depth = Gauge("longshore_queue_depth", "Keys that wait for a worker.", registry=self.registry)
        self.stuck = Gauge(
            "longshore_queue_oldest_seconds", "Age of the oldest key in the queue.", registry=self.registry
        )
        self.leader = Gauge("longshore_leader", "1 while this process leads.", registry=self.registry)
        self.models = Gauge("longshore_modeldeployments", "ModelDeployments seen.", registry=self.registry)

    def notified(self, result: str) -> None:
        """Count a try to tell a web hook."""
        self.notifications.labels(result).inc()

    def told(self, verb: str, kind: str) -> None:
        """Count a request to the API server."""
        self.requests.labels(verb, kind).inc()
