"""The labels of nodes with a GPU, as the real API server gives them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from longshore.cluster import Cluster, ClusterError
from longshore.index import Key
from longshore.nodes import GpuNodes
from longshore.senses import Senses

from tests.kube import Kube

pytestmark = pytest.mark.apiserver

KEY: Key = ("team", "digits")
PRODUCT = "nvidia.com/gpu.product"
DRIVER = "nvidia.com/cuda.driver-version.full"


def add_node(kube: Kube, name: str, **labels: str) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    assert kube.call("POST", "/api/v1/nodes", node).status == 201


@pytest.fixture
def nodes(kube: Kube) -> Iterator[None]:
    add_node(kube, "gpu-1", **{PRODUCT: "NVIDIA-A10G", DRIVER: "550.54.15"})
    add_node(kube, "plain-1", pool="cpu")
    yield
    for name in ("gpu-1", "plain-1"):
        kube.call("DELETE", f"/api/v1/nodes/{name}")


@pytest.fixture
async def cluster(kube: Kube) -> AsyncIterator[Cluster]:
    async with await Cluster.connect(str(kube.server.kubeconfig)) as connected:
        yield connected


@pytest.mark.usefixtures("nodes")
async def test_only_nodes_with_a_gpu_are_told_and_a_new_driver_wakes_the_model(
    kube: Kube, cluster: Cluster
) -> None:
    senses, woken = Senses(), asyncio.Event()
    gpu_nodes = GpuNodes(cluster, senses, interval=0.02)
    gpu_nodes.wake = lambda key: woken.set()
    gpu_nodes.follow(KEY, True)
    try:
        await asyncio.wait_for(woken.wait(), 20)
        assert senses.gpu_nodes is not None
        (labels,) = senses.gpu_nodes
        assert (labels[PRODUCT], labels[DRIVER]) == ("NVIDIA-A10G", "550.54.15")
        woken.clear()
        patch = {"metadata": {"labels": {DRIVER: "560.35.03"}}}
        await asyncio.to_thread(
            kube.call, "PATCH", "/api/v1/nodes/gpu-1", patch, "application/merge-patch+json"
        )
        await asyncio.wait_for(woken.wait(), 20)
        assert senses.gpu_nodes[0][DRIVER] == "560.35.03"
        gpu_nodes.follow(KEY, False)
        assert senses.gpu_nodes is None, "what nobody needs is looked at anew by the next who does"
    finally:
        await gpu_nodes.close()


async def test_an_operator_that_may_not_list_nodes_goes_on_without(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> dict[str, Any]:
        raise ClusterError(403, "Forbidden", "nodes is forbidden")

    monkeypatch.setattr(cluster, "list", refuse)
    senses, woken = Senses(), asyncio.Event()
    gpu_nodes = GpuNodes(cluster, senses)
    gpu_nodes.wake = lambda key: woken.set()
    gpu_nodes.follow(KEY, True)
    try:
        await asyncio.wait_for(woken.wait(), 20)
        assert senses.gpu_nodes == ()
    finally:
        await gpu_nodes.close()
