"""The node's network: one bridge, which is also the node's address, and the packet filter rules around it."""

import contextlib
import ipaddress
import json
import shlex
import socket
from pathlib import Path

from e2e.cluster.command import run, succeeds
from e2e.cluster.errors import ClusterError

BRIDGE = "longshore0"
NODE_IP = "10.244.0.1"
POD_RANGE = "10.244.0.0/24"
CLUSTER_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
REGISTRY_PORT = 5000

# table, the chain of ours, the chain of the kernel's that jumps to it
_CHAINS = (
    ("nat", "LONGSHORE-POSTROUTING", "POSTROUTING"),
    ("filter", "LONGSHORE-FORWARD", "FORWARD"),
    ("filter", "LONGSHORE-INPUT", "INPUT"),
)
_RULES = (
    # Pods reach the world with the host's address, each other and Services with their own.
    ("nat", "LONGSHORE-POSTROUTING", f"-s {POD_RANGE} ! -d {CLUSTER_RANGE} -j MASQUERADE"),
    # A host may drop what it forwards (Docker makes it so): pods' packets are let through.
    ("filter", "LONGSHORE-FORWARD", f"-i {BRIDGE} -j ACCEPT"),
    ("filter", "LONGSHORE-FORWARD", f"-o {BRIDGE} -j ACCEPT"),
    # The registry asks nobody for a password: it is for this host and its pods only.
    ("filter", "LONGSHORE-INPUT", "-i lo -j RETURN"),
    ("filter", "LONGSHORE-INPUT", f"-i {BRIDGE} -j RETURN"),
    ("filter", "LONGSHORE-INPUT", f"-p tcp --dport {REGISTRY_PORT} -j DROP"),
)
_KUBERNETES_CHAINS = ("KUBE-",)
_SYS = Path("/proc/sys")


def conflicts(addresses_json: str) -> list[str]:
    """Links other than ours that have an address in the ranges of pods or Services (`ip -json addr`)."""
    ours = [ipaddress.ip_network(CLUSTER_RANGE), ipaddress.ip_network(SERVICE_RANGE)]
    found = []
    for link in json.loads(addresses_json):
        for address in link.get("addr_info", []):
            if address.get("family") != "inet" or link["ifname"] == BRIDGE:
                continue
            network = ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
            if any(network.overlaps(each) for each in ours) and network.prefixlen:
                found.append(f"{link['ifname']} ({network})")
    return found


def sees_bridged_packets() -> bool:
    """Whether the kernel shows packets between two pods to the packet filter (br_netfilter)."""
    setting = _SYS / "net/bridge/bridge-nf-call-iptables"
    if not setting.exists():
        succeeds(["modprobe", "br_netfilter"])
    return setting.exists()


def ensure() -> None:
    """Make the bridge, its route and its rules, whatever of them exists already.

    Raises ClusterError when another link uses the same addresses.
    """
    if taken := conflicts(run(["ip", "-json", "addr"])):
        raise ClusterError(
            f"the addresses of pods and Services ({CLUSTER_RANGE}, {SERVICE_RANGE}) are taken on this host "
            f"by {', '.join(taken)}.\n"
            "  next step: take that link down, or use CLUSTER=kind or CLUSTER=current"
        )
    bridged = sees_bridged_packets()
    if not link_exists(BRIDGE):
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "addr", "replace", f"{NODE_IP}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    # An address that no Service has must not leave this host by the default route.
    run(["ip", "route", "replace", SERVICE_RANGE, "dev", BRIDGE])
    (_SYS / "net/ipv4/ip_forward").write_text("1")
    if bridged:
        (_SYS / "net/bridge/bridge-nf-call-iptables").write_text("1")
    for table, chain, parent in _CHAINS:
        if not _chain_exists(table, chain):
            _iptables(table, "-N", chain)
        _iptables(table, "-F", chain)
        if not succeeds(["iptables", "-w", "10", "-t", table, "-C", parent, "-j", chain]):
            _iptables(table, "-A", parent, "-j", chain)
    for table, chain, rule in _RULES:
        _iptables(table, "-A", chain, *rule.split())


def remove_pod_links(bridge: str) -> None:
    """Remove the pods' ends of the bridge; those of a network namespace that is gone vanish by themselves."""
    for name in _bridge_ports(bridge):
        with contextlib.suppress(ClusterError):
            run(["ip", "link", "del", name])


def remove() -> None:
    """Remove what `ensure` made, and the pods' links."""
    remove_pod_links(BRIDGE)
    if link_exists(BRIDGE):
        run(["ip", "link", "del", BRIDGE])
    if succeeds(["iptables", "--version"]):
        for table, chain, parent in _CHAINS:
            if _chain_exists(table, chain):
                while succeeds(["iptables", "-w", "10", "-t", table, "-D", parent, "-j", chain]):
                    pass
                _iptables(table, "-F", chain)
                _iptables(table, "-X", chain)


def remove_kubernetes_chains() -> None:
    """Remove the chains that kube-proxy and kubelet leave behind, with every rule that jumps to them."""
    for command in ("iptables", "ip6tables"):
        for table in ("nat", "filter", "mangle"):
            try:
                listing = run([command, "-w", "10", "-t", table, "-S"])
            except ClusterError:
                continue  # no such table or no IPv6 in this kernel: nothing of ours in it
            for arguments in removal_of_kubernetes_chains(listing):
                run([command, "-w", "10", "-t", table, *arguments])


def removal_of_kubernetes_chains(listing: str) -> list[list[str]]:
    """The iptables arguments that empty a table (`iptables -S`) of Kubernetes' chains.

    First go the rules in other chains that jump to them, then their own rules, then the chains.
    """
    words = [shlex.split(line) for line in listing.splitlines()]  # comments are quoted
    chains = [line[1] for line in words if line[:1] == ["-N"] and line[1].startswith(_KUBERNETES_CHAINS)]
    jumps = [
        (chain, number)
        for chain, number, target in _numbered(words)
        if target.startswith(_KUBERNETES_CHAINS) and chain not in chains
    ]
    deletions = [["-D", chain, str(number)] for chain, number in reversed(jumps)]
    return deletions + [["-F", chain] for chain in chains] + [["-X", chain] for chain in chains]


def _numbered(words: list[list[str]]) -> list[tuple[str, int, str]]:
    counts: dict[str, int] = {}
    rules = []
    for line in words:
        if line[:1] == ["-A"]:
            counts[line[1]] = counts.get(line[1], 0) + 1
            target = line[line.index("-j") + 1] if "-j" in line[:-1] else ""
            rules.append((line[1], counts[line[1]], target))
    return rules


def is_own_rule(rule: str) -> bool:
    """Whether only this cluster can have made a rule."""
    return "LONGSHORE-" in rule or BRIDGE in rule


def rules_left() -> list[str]:
    """Every rule or chain that names this cluster or Kubernetes: none once the node is down."""
    left = []
    for command in ("iptables", "ip6tables"):
        with contextlib.suppress(ClusterError):
            lines = run([f"{command}-save"]).splitlines()
            left += [line for line in lines if is_own_rule(line) or "KUBE-" in line]
    return left


def link_exists(name: str) -> bool:
    """Whether the kernel has a network link of this name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _bridge_ports(bridge: str) -> list[str]:
    if not link_exists(bridge):
        return []
    return [link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show", "master", bridge]))]


def _chain_exists(table: str, chain: str) -> bool:
    return succeeds(["iptables", "-w", "10", "-t", table, "-n", "-L", chain])


def _iptables(table: str, *arguments: str) -> None:
    run(["iptables", "-w", "10", "-t", table, *arguments])
