"""What the host's network and mount tables say, and what follows from it."""

import json

import pytest

from e2e.cluster import mounts, network


def addresses(name: str, address: str, length: int, family: str = "inet") -> str:
    info = {"family": family, "local": address, "prefixlen": length}
    loopback = {"family": "inet", "local": "127.0.0.1", "prefixlen": 8}
    return json.dumps([{"ifname": "lo", "addr_info": [loopback]}, {"ifname": name, "addr_info": [info]}])


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        (addresses("eth0", "192.0.2.7", 24), []),
        (addresses(network.BRIDGE, "10.244.0.1", 24), []),
        (addresses("eth0", "fe80::1", 64, "inet6"), []),
        (addresses("cni0", "10.244.3.1", 24), ["cni0 (10.244.3.0/24)"]),
        (addresses("eth0", "10.1.2.3", 8), ["eth0 (10.0.0.0/8)"]),
        (addresses("tun0", "10.96.0.4", 32), ["tun0 (10.96.0.4/32)"]),
    ],
)
def test_links_that_use_the_clusters_addresses_are_named(listing: str, found: list[str]) -> None:
    assert network.conflicts(listing) == found


def test_removing_kubernetes_chains_touches_no_other_rule() -> None:
    listing = """\
-P PREROUTING ACCEPT
-P POSTROUTING ACCEPT
-N DOCKER
-N KUBE-SERVICES
-N KUBE-MARK-MASQ
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
-A POSTROUTING -m comment --comment "a rule -j KUBE-SERVICES of mine" -j ACCEPT
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-MARK-MASQ
-A DOCKER -i docker0 -j RETURN
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-MARK-MASQ
"""
    assert network.removal_of_kubernetes_chains(listing) == [
        ["-D", "POSTROUTING", "3"],
        ["-D", "PREROUTING", "1"],
        ["-F", "KUBE-SERVICES"],
        ["-F", "KUBE-MARK-MASQ"],
        ["-X", "KUBE-SERVICES"],
        ["-X", "KUBE-MARK-MASQ"],
    ]


def test_a_table_without_kubernetes_needs_nothing() -> None:
    assert network.removal_of_kubernetes_chains("-P INPUT ACCEPT\n-A INPUT -j ACCEPT\n") == []


def test_mount_points_with_spaces_are_read() -> None:
    table = (
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        r"40 22 0:30 / /var/lib/a\040folder/tab\011here rw shared:7 - tmpfs tmpfs rw"
    )
    assert [str(point) for point in mounts.parse(table)] == ["/", "/var/lib/a folder/tab\there"]
