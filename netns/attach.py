"""A pod's one network link: a veth pair from the pod's namespace to a port of the node's bridge.

::

    pod namespace                          node namespace
    eth0 10.244.0.5/32  ---- veth ----  pw0a1b2c3d (port of podwire0, hairpin on)
    route 10.244.0.1 dev eth0                       |
    default via 10.244.0.1                podwire0 10.244.0.1/24 -- routing, netfilter -- the world

**Why /32.** A Service works only if both directions of a connection pass the same connection tracking. With
10.244.0.5/24 a pod would think of the other pods as neighbours: its request to a ClusterIP goes to the node, is
rewritten there to the address of another pod, but that pod's *answer* would go straight across the bridge to the
client, which has never heard of its sender and resets the connection. The usual remedy is the br_netfilter module,
which hands bridged frames to iptables; it is one switch for the whole machine, changes every bridge on it, and must be
loaded. With a /32 the pod has no neighbours but its gateway, so all its traffic is *routed* by the node and netfilter
sees both directions, on any kernel, whatever the bridge-nf sysctls say (both settings are tested). The node must not
answer "you could send that directly" (ICMP redirect): ``host.prepare_node`` turns that off.

Hairpin mode is on for frames that must leave by the port they came from: where br_netfilter *is* active, the bridge
itself forwards a pod's packet to its own Service back to that pod.
"""

from __future__ import annotations

import os
from pathlib import Path

from netns import namespaces
from netns.errors import NetnsError
from netns.links import IFNAMSIZ, Links, mac_of, write_sysctl

DEFAULT_MTU = 1500


def attach(
    pod: str | Path,
    *,
    bridge: str,
    address: str,
    gateway: str,
    host_ifname: str,
    ifname: str = "eth0",
    mtu: int = DEFAULT_MTU,
) -> None:
    """Join the namespace ``pod`` (name or path) to ``bridge``, which is in the calling thread's namespace.

    ``address`` has a prefix length, such as 10.244.0.5/32. Attaching again replaces the link. Raises NetnsError, and
    then leaves no link behind.
    """
    if len(host_ifname) > IFNAMSIZ:
        raise NetnsError(f"cannot attach {pod}: link name {host_ifname} is longer than {IFNAMSIZ} characters")
    mac = mac_of(address.partition("/")[0])
    with Links() as links:
        port = links.require(bridge)
        links.remove(host_ifname)
        handle = _open(pod)
        try:
            links.add_veth(host_ifname, master=port, peer=ifname, peer_namespace=handle, peer_mac=mac, mtu=mtu)
            links.set_hairpin(host_ifname)
            namespaces.inside(pod, lambda: _configure(ifname, address, gateway))
        except BaseException:
            links.remove(host_ifname)
            raise
        finally:
            os.close(handle)


def detach(host_ifname: str) -> None:
    """Remove the pair, seen from the node's end; nothing happens if it is gone already (with its namespace, say)."""
    with Links() as links:
        links.remove(host_ifname)


def _configure(ifname: str, address: str, gateway: str) -> None:
    """Inside the pod: addresses, routes, and nothing that would need waiting for (duplicate address detection)."""
    for name, value in _pod_sysctls(ifname):
        if Path("/proc/sys", name).exists():  # a kernel may be without IPv6
            write_sysctl(name, value)
    with Links() as links:
        links.set("lo", state="up")
        links.set(ifname, state="up")
        links.ensure_address(ifname, address)
        links.ensure_route(f"{gateway}/32", link=ifname)
        links.ensure_route("default", link=ifname, gateway=gateway)


def _pod_sysctls(ifname: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"net/ipv6/conf/{ifname}/accept_dad", "0"),
        (f"net/ipv6/conf/{ifname}/accept_ra", "0"),
        ("net/ipv4/conf/all/accept_redirects", "0"),
        (f"net/ipv4/conf/{ifname}/accept_redirects", "0"),
        # Any user may bind port 80 and ping, as with containerd 2.0: a namespace of its own has nobody to protect.
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        ("net/ipv4/ping_group_range", "0\t2147483647"),
    )


def _open(pod: str | Path) -> int:
    path = namespaces.path_of(pod)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetnsError(f"cannot attach network namespace {path}: {error.strerror}") from error
