"""What a Job measures under: the CPU that a serving pod will have, within what this container may use."""

import os
from functools import partial
from pathlib import Path

import pytest
from longshore.artifact.job import JobRequest
from longshore_optimizer import job, pipeline
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.measure import cpu
from longshore_optimizer.request import Request

from tests.optimizer.conftest import mlp

QUOTA, PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"
"""Of version 1."""


def container(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "200000 50000\n"}, 4.0),
        ({"cpu.max": "max 100000\n"}, None),
        ({QUOTA: "75000\n", PERIOD: "100000\n"}, 0.75),
        ({QUOTA: "300000\n", PERIOD: "200000\n"}, 1.5),
        ({QUOTA: "-1\n", PERIOD: "100000\n"}, None),
        ({QUOTA: "75000\n"}, None),
        ({"cpu.max": "garbled\n", QUOTA: "75000\n", PERIOD: "100000\n"}, 0.75),
        # Where both are mounted, the second version holds the controllers.
        ({"cpu.max": "50000 100000\n", QUOTA: "75000\n", PERIOD: "100000\n"}, 0.5),
        ({}, None),
    ],
)
def test_the_limit_of_a_container(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    assert cpu.cgroup_limit(container(tmp_path, files)) == limit


@pytest.mark.parametrize(
    ("wanted", "quota", "threads", "limit"),
    [
        (None, "max", 4, 4.0),
        (0.5, "max", 1, 0.5),
        (2.0, "max", 2, 2.0),
        (2.0, "150000", 2, 1.5),
        (2.0, "50000", 1, 0.5),
        (None, "250000", 3, 2.5),
        (16.0, "max", 4, 4.0),
    ],
)
def test_the_least_of_wish_limit_and_affinity_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: float | None,
    quota: str,
    threads: int,
    limit: float,
) -> None:
    root = container(tmp_path, {"cpu.max": f"{quota} 100000\n"})
    monkeypatch.setattr(cpu, "cgroup_limit", partial(cpu.cgroup_limit, root))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7})
    cores = cpu.usable_cores(wanted)
    assert (cores.threads, cores.limit) == (threads, limit)
    assert cores.cores == (2, 3, 5, 7)[:threads]


@pytest.mark.parametrize(("millicores", "threads"), [(250, 1), (1500, 2), (3000, 3)])
def test_a_job_measures_with_the_cpu_of_a_serving_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, millicores: int, threads: int
) -> None:
    """The latency that is chosen by is the one that the pod will have, not that of the whole machine."""
    mlp(tmp_path / "pvc" / "models" / "model.onnx")
    monkeypatch.setattr(cpu, "cgroup_limit", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    orders = []

    class SeenError(Exception):
        pass

    def seen(order: Request, reporter: object) -> None:
        orders.append(order)
        raise SeenError

    monkeypatch.setattr(pipeline, "optimize", seen)
    request = JobRequest.model_validate(
        {
            "namespace": "ns",
            "name": "m",
            "model": {"uri": "pvc://models/model.onnx"},
            "store": "pvc://models/store",
            "target": {"cpu_millicores": millicores},
        }
    )
    with pytest.raises(SeenError):
        job.run(request, tmp_path / "work", FetchSettings(volume_root=tmp_path / "pvc"))
    (order,) = orders
    assert (order.cores.limit, order.cores.threads) == (millicores / 1000, threads)
