"""What the operator answers by HTTP."""

import httpx
import pytest
from longshore.metrics import Metrics
from longshore.probes import STUCK, serve_probes


@pytest.mark.parametrize(("age", "status"), [(0.0, 200), (STUCK - 1, 200), (STUCK + 1, 503)])
async def test_healthz_fails_when_the_queue_stands_still(age: float, status: int) -> None:
    async with (
        serve_probes("127.0.0.1", 0, Metrics(), lambda: age, lambda: 3) as port,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/healthz")
    assert answer.status_code == status
    assert answer.text == ("ok\n" if status == 200 else f"the queue has not moved for {age:.0f} s\n")


async def test_metrics_tell_the_queue_and_the_requests() -> None:
    metrics = Metrics()
    metrics.told("PATCH", "services")
    metrics.failures.labels("Invalid").inc()
    async with (
        serve_probes("127.0.0.1", 0, metrics, lambda: 1.5, lambda: 3) as port,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    for line in (
        "longshore_queue_depth 3.0",
        "longshore_queue_oldest_seconds 1.5",
        'longshore_api_requests_total{kind="services",verb="PATCH"} 1.0',
        'longshore_reconcile_failures_total{reason="Invalid"} 1.0',
        "longshore_reconcile_duration_seconds_count 0.0",
    ):
        assert line in text.splitlines()
