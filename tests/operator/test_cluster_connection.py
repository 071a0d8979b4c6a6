"""How a kubeconfig leads to the API server: through a proxy, and under another name than its address."""

from pathlib import Path

import pytest
from longshore.cluster import Cluster, ClusterError
from longshore.resources.kinds import SERVICE

from e2e.cluster.apiserver import ApiServer
from tests.operator.tunnels import Proxy, kubeconfig_of

pytestmark = pytest.mark.apiserver


async def test_requests_and_watches_go_through_the_proxy_of_thekubeconfig_of(
    apiserver: ApiServer, tmp_path: Path
) -> None:
    async with Proxy(apiserver) as proxy:
        kubeconfig = kubeconfig_of(apiserver, tmp_path, proxy_url=proxy.url)
        async with await Cluster.connect(str(kubeconfig)) as cluster:
            listed = await cluster.list(SERVICE, "default")
            events = cluster.watch(SERVICE, "default", "", "0")
            assert (await anext(events))[1]["kind"] == "Service"
    address = apiserver.url.removeprefix("https://")
    assert set(proxy.asked) == {f"CONNECT {address} HTTP/1.1"}
    assert listed["kind"] == "ServiceList"


async def test_the_server_is_held_to_the_name_that_the_kubeconfig_gives_it(
    apiserver: ApiServer, tmp_path: Path
) -> None:
    right = kubeconfig_of(apiserver, tmp_path, tls_server_name="kubernetes.default.svc")
    async with await Cluster.connect(str(right)) as cluster:
        assert (await cluster.list(SERVICE, "default"))["kind"] == "ServiceList"
    wrong = kubeconfig_of(apiserver, tmp_path, tls_server_name="elsewhere.example")
    async with await Cluster.connect(str(wrong)) as cluster:
        with pytest.raises(ClusterError, match=r"elsewhere\.example"):
            await cluster.list(SERVICE, "default")
