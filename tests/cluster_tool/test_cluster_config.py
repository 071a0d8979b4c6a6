"""The components' configuration, read back by the formats' own parsers."""

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from e2e.cluster import config
from e2e.cluster.components import components
from e2e.cluster.kubeconfig import kubeconfig
from e2e.cluster.network import CLUSTER_RANGE, NODE_IP, POD_RANGE
from e2e.cluster.paths import NodePaths
from e2e.cluster.pki import Authority

PATHS = NodePaths(root=Path("/state/of node"), run=Path("/run/of-node"), cgroup="group", bridge="bridge7")
BINARIES = Path("/cache/bin")


def test_containerd_keeps_everything_below_the_nodes_folders() -> None:
    content = tomllib.loads(config.containerd(PATHS, BINARIES))
    assert content["root"] == "/state/of node/containerd"
    assert content["state"] == "/run/of-node/containerd"
    runtime = content["plugins"]["io.containerd.cri.v1.runtime"]
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["netns_mounts_under_state_dir"] is True
    runc = runtime["containerd"]["runtimes"]["runc"]["options"]
    assert runc == {"BinaryName": "/cache/bin/runc", "Root": "/run/of-node/runc", "SystemdCgroup": False}
    images = content["plugins"]["io.containerd.cri.v1.images"]
    assert images["pinned_images"]["sandbox"] == config.SANDBOX_IMAGE


def test_kubelet_puts_pods_in_the_nodes_own_control_group() -> None:
    content = yaml.safe_load(config.kubelet(PATHS))
    assert content["cgroupRoot"] == "/group"
    assert content["failCgroupV1"] is False
    assert content["containerRuntimeEndpoint"] == "unix:///run/of-node/containerd.sock"
    assert content["authentication"]["anonymous"] == {"enabled": False}


def test_pods_get_ports_of_the_nodes_bridge() -> None:
    (plugin,) = json.loads(config.cni(PATHS))["plugins"]
    assert plugin["bridge"] == "bridge7"
    assert plugin["ipam"]["ranges"][0][0]["subnet"] == POD_RANGE


@pytest.mark.parametrize("seen", [True, False])
def test_services_work_where_the_packet_filter_does_not_see_bridged_packets(seen: bool) -> None:
    content = yaml.safe_load(config.kube_proxy(PATHS, sees_bridged_packets=seen))
    assert content["iptables"]["masqueradeAll"] is not seen
    assert content["clusterCIDR"] == CLUSTER_RANGE


@pytest.mark.parametrize(
    ("resolver", "forwards"),
    [
        ("nameserver 192.0.2.53\n", True),
        ("search example.org\n# nameserver 192.0.2.53\n", False),
        ("", False),
    ],
)
def test_other_names_are_asked_of_the_hosts_resolver_if_it_has_one(resolver: str, forwards: bool) -> None:
    text = config.corefile(PATHS, resolver)
    assert ("forward . /etc/resolv.conf" in text) is forwards
    assert text.count("{") == text.count("}")


def test_the_registry_is_reached_without_tls_under_both_of_its_names() -> None:
    content = tomllib.loads(config.registry_host())
    assert content["server"] == "http://127.0.0.1:5000"
    assert set(config.REGISTRY_NAMES) == {"localhost:5000", f"{NODE_IP}:5000"}


def test_every_component_has_a_name_of_its_own_and_no_port_twice(tmp_path: Path) -> None:
    parts = components(PATHS, BINARIES)
    assert len({part.name for part in parts}) == len(parts)
    ports = [port for part in parts for _, port in part.ports]
    assert len(set(ports)) == len(ports)


def test_a_changed_configuration_file_changes_the_components_fingerprint(tmp_path: Path) -> None:
    paths = NodePaths(root=tmp_path, run=tmp_path)
    paths.config.mkdir()
    for part in components(paths, BINARIES):
        for file in part.files:
            file.write_text("before")
        before = part.fingerprint()
        assert part.fingerprint() == before
        for file in part.files:
            file.write_text("after")
            assert part.fingerprint() != before


def test_a_kubeconfig_stands_alone() -> None:
    authority = Authority("test")
    pair = authority.issue("someone", organizations=["group"])
    content = yaml.safe_load(
        kubeconfig(
            server="https://127.0.0.1:1",
            authority=authority.pair.certificate,
            user="someone",
            credentials=pair,
            context="here",
        )
    )
    assert content["current-context"] == "here"
    assert set(content["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
