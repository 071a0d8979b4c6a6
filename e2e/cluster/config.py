"""The configuration file of each component, as text."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from e2e.cluster.network import (
    CLUSTER_RANGE,
    DNS_SERVICE_IP,
    NODE_IP,
    POD_RANGE,
    REGISTRY_PORT,
)
from e2e.cluster.paths import NodePaths

NODE = "node1"
SANDBOX_IMAGE = "localhost/longshore/pause:1"
CNI_PLUGINS = Path("/usr/lib/cni")
REGISTRY_NAMES = (f"localhost:{REGISTRY_PORT}", f"{NODE_IP}:{REGISTRY_PORT}")


def containerd(paths: NodePaths, binaries: Path) -> str:
    """The container runtime's configuration (TOML)."""
    return f"""version = 3
root = "{paths.root}/containerd"
state = "{paths.run}/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{paths.containerd_socket}"

[plugins.'io.containerd.internal.v1.opt']
  path = "{paths.root}/containerd-opt"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{SANDBOX_IMAGE}"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "{paths.config}/registries"

[plugins.'io.containerd.cri.v1.runtime']
  # A host without CAP_SYS_RESOURCE may not lower oom_score_adj, and every sandbox would fail.
  restrict_oom_score_adj = true
  # Below the state folder, where taking the node down finds them.
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "{binaries}/runc"
      Root = "{paths.run}/runc"
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{CNI_PLUGINS}"]
    conf_dir = "{paths.config}/cni"
"""


def cni(paths: NodePaths) -> str:
    """The pods' network: a port of the bridge and an address each. (Host ports are not offered.)"""
    bridge = {
        "type": "bridge",
        "bridge": paths.bridge,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{paths.run}/ipam",
            "ranges": [[{"subnet": POD_RANGE, "rangeStart": "10.244.0.10"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "longshore", "plugins": [bridge]}, indent=2)


def registry_host() -> str:
    """How containerd reaches the node's registry under any of its names: without TLS (TOML)."""
    address = f"http://127.0.0.1:{REGISTRY_PORT}"
    return f'server = "{address}"\n\n[host."{address}"]\n  capabilities = ["pull", "resolve"]\n'


def registry(paths: NodePaths) -> str:
    """The OCI registry's configuration (YAML)."""
    return _yaml(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": f"{paths.root}/registry"},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"0.0.0.0:{REGISTRY_PORT}"},
        }
    )


def kubelet(paths: NodePaths) -> str:
    """The kubelet's configuration (YAML)."""
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_IP,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{paths.cgroup}",
            # Kubernetes 1.35 and newer refuse hosts with control groups v1 unless told otherwise.
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": f"{paths.pki}/ca.crt"},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDomain": "cluster.local",
            "clusterDNS": [DNS_SERVICE_IP],
            "tlsCertFile": f"{paths.pki}/kubelet.crt",
            "tlsPrivateKeyFile": f"{paths.pki}/kubelet.key",
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            # Images are loaded by hand and cannot be pulled again: never collect them.
            "imageGCHighThresholdPercent": 100,
            # Else one that was pulled under another name too is pulled again for the name it was loaded by.
            "imagePullCredentialsVerificationPolicy": "NeverVerify",
            "maxPods": 240,
            "resolvConf": f"{paths.config}/resolv.conf",
            "podLogsDir": f"{paths.root}/pod-logs",
            "volumePluginDir": f"{paths.root}/volume-plugins",
            "serializeImagePulls": False,
            "makeIPTablesUtilChains": False,
        }
    )


def kube_proxy(paths: NodePaths, *, sees_bridged_packets: bool) -> str:
    """kube-proxy's configuration (YAML).

    Where the kernel does not show packets between pods to the packet filter, answers of a pod to its
    neighbour would skip the translation back: then connections to Services carry the node's address.
    """
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "iptables": {"masqueradeAll": not sees_bridged_packets, "localhostNodePorts": False},
            "clusterCIDR": CLUSTER_RANGE,
            "hostnameOverride": NODE,
            "healthzBindAddress": "127.0.0.1:10256",
            "clientConnection": {"kubeconfig": f"{paths.config}/kube-proxy.conf"},
            "conntrack": {"maxPerCore": 0, "min": 0},
        }
    )


def corefile(paths: NodePaths, resolver: str) -> str:
    """CoreDNS' configuration. `resolver` is the host's resolv.conf: its servers are asked for other names."""
    has_nameserver = any(line.split()[:1] == ["nameserver"] for line in resolver.splitlines())
    forward = "  forward . /etc/resolv.conf\n" if has_nameserver else ""
    return f""".:53 {{
  bind {NODE_IP}
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {{
    kubeconfig {paths.config}/coredns.conf
    pods insecure
    ttl 1
  }}
{forward}  cache 5
}}
"""


def dns_objects() -> str:
    """The Service of cluster DNS: without selector, as CoreDNS runs on the host (YAML)."""
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": DNS_SERVICE_IP, "ports": ports},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-host",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [NODE_IP], "conditions": {"ready": True}}],
    }
    return "---\n".join(_yaml(each) for each in (service, endpoints))


def _yaml(content: Mapping[str, object]) -> str:
    return yaml.safe_dump(content, sort_keys=False)
