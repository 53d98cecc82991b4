"""The node's side: its bridge, the settings that make it a router, and whether this machine can be a node at all.

``prepare_node`` runs inside the node's network namespace and changes only that: the sysctls under ``net`` that it sets
are per namespace. What a setting was before is written to a file first, so that ``remove_node`` can put it back.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from netns import namespaces
from netns.attach import DEFAULT_MTU
from netns.errors import NetnsError
from netns.links import Links, mac_of, read_sysctl, write_sysctl

OLDEST_KERNEL = (5, 4)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4): another one after each boot


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``what`` was found, whether it is ``ok``, and if not, what to do (``hint``).

    One that is ``ok`` and has a ``hint``: a node can run, but something that people expect of it will not work.
    """

    name: str
    ok: bool
    what: str
    hint: str = ""


def node_sysctls(bridge: str) -> tuple[tuple[str, str], ...]:
    """What a node needs. route_localnet is not among them: it would let outsiders reach 127/8 (CVE-2020-8558)."""
    return (
        ("net/ipv4/ip_forward", "1"),
        # Pods reach each other through the bridge they come from (see ``attach``); "that way is shorter" is unwanted
        # advice. The kernel sends it if either setting is on (IN_DEV_TX_REDIRECTS, linux/inetdevice.h).
        ("net/ipv4/conf/all/send_redirects", "0"),
        (f"net/ipv4/conf/{bridge}/send_redirects", "0"),
        (f"net/ipv6/conf/{bridge}/accept_dad", "0"),
        (f"net/ipv6/conf/{bridge}/accept_ra", "0"),
    )


def prepare_node(bridge: str, gateway_cidr: str, *, mtu: int = DEFAULT_MTU, memory: Path | None = None) -> None:
    """Make the current namespace a node: lo and ``bridge`` up, the bridge with ``gateway_cidr`` (10.244.0.1/24),
    forwarding.

    Idempotent. ``memory``: where earlier values of sysctls are kept for ``remove_node``. Raises NetnsError.
    """
    gateway = ipaddress.IPv4Interface(gateway_cidr)
    with Links() as links:
        _refuse_overlap(links, bridge, gateway)
        links.set("lo", state="up")
        links.ensure_bridge(bridge, mac=mac_of(str(gateway.ip)), mtu=mtu)
        links.ensure_address(bridge, gateway_cidr)
    wanted = [(name, value) for name, value in node_sysctls(bridge) if read_sysctl(name) is not None]
    if memory is not None:
        _remember(memory, [name for name, _ in wanted if f"/{bridge}/" not in name])
    for name, value in wanted:
        write_sysctl(name, value)


def ensure_service_route(bridge: str, service_cidr: str, *, source: str) -> None:
    """Route ClusterIPs to the bridge. No interface has one, but netfilter sees only packets that have a route.

    The node's own processes (nat OUTPUT) need this on a machine without default route. And a client outside that uses
    this node as its router would, where the default route leads back to the client's network, be sent an ICMP redirect,
    whose rate limit swallows the ICMP error of a refused Service (ip_rt_send_redirect and icmpv4_xrlim_allow share it).
    The destination is rewritten before a packet leaves, so which link it is does not matter; the route goes with it.
    """
    with Links() as links:
        links.ensure_route(service_cidr, link=bridge, source=source)


def remove_node(bridge: str, *, memory: Path | None = None) -> None:
    """Take the bridge away and put back the settings that ``memory`` knows. Idempotent; detach the pods first."""
    with Links() as links:
        links.remove(bridge)
    if memory is not None and memory.exists():
        for name, value in _recall(memory).items():
            write_sysctl(name, value)
        memory.unlink()


def node_addresses(*, without: Sequence[str] = ()) -> tuple[str, ...]:
    """The IPv4 addresses by which others can reach this namespace: not loopback, link-local, nor of links
    ``without``.
    """
    with Links() as links:
        found = links.addresses()
    return tuple(
        str(address.ip)
        for link, address in found
        if address.version == 4 and link not in without and not (address.ip.is_loopback or address.ip.is_link_local)
    )


def _refuse_overlap(links: Links, bridge: str, gateway: ipaddress.IPv4Interface) -> None:
    for link, address in links.addresses():
        if link != bridge and address.version == 4 and address.network.overlaps(gateway.network):
            raise NetnsError(
                f"cannot use pod CIDR {gateway.network}: {link} has {address} in this network namespace; "
                "choose another pod_cidr"
            )


def _remember(memory: Path, names: Sequence[str]) -> None:
    """The first memory of this boot counts: after a crash the values are podwire's own already, after a reboot they are
    what the machine's configuration says today. An empty file is what a power cut may leave of a new one.
    """
    boot = BOOT_ID.read_text().strip()
    if memory.exists() and (content := memory.read_bytes()) and _boot_of(content) in (boot, None):
        return
    memory.parent.mkdir(parents=True, exist_ok=True)
    fresh = memory.with_name(memory.name + ".new")
    fresh.write_text(json.dumps({"boot": boot, "sysctls": {name: read_sysctl(name) for name in names}}))
    fresh.replace(memory)


def _boot_of(content: bytes) -> str | None:
    """During which boot a memory was written; None if it does not say (damaged, or of an earlier version)."""
    try:
        known = json.loads(content)
    except ValueError:
        return None
    return known.get("boot") if isinstance(known, dict) else None


def _recall(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_bytes())
    except ValueError:
        known = None
    if isinstance(known, dict) and "boot" in known:
        known = known.get("sysctls")
    if not isinstance(known, dict):
        memory.rename(memory.with_name(memory.name + ".damaged"))
        raise NetnsError(
            f"cannot put sysctls back as they were: {memory} is damaged; it is set aside, they stay as set"
        )
    return known


# --- preflight --------------------------------------------------------------------------------------------------------


def preflight(*, netns: str | Path | None = None, bridge: str = "podwire0") -> tuple[Finding, ...]:
    """Whether this machine can be a node, without changing anything that lasts. ``netns``: the node's, if another."""
    here = (*preflight_machine(), _overlay(), *([_veth()] if os.geteuid() == 0 else []))
    if netns is not None and not namespaces.exists(netns):
        return (*here, Finding("namespace", True, f"network namespace {netns} will be made"))
    if os.geteuid() != 0:
        return here
    if netns is None:
        return (*here, *_node(bridge))
    return (*here, *namespaces.inside(netns, lambda: tuple(_node(bridge))))


def preflight_machine() -> tuple[Finding, ...]:
    """What no node can do without, found without making anything."""
    return tuple(_machine())


def _machine() -> Iterator[Finding]:
    yield _check("root", os.geteuid() == 0, f"user id {os.geteuid()}", "run it with sudo")
    release = platform.release()
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    oldest = ".".join(map(str, OLDEST_KERNEL))
    yield _check("kernel", version >= OLDEST_KERNEL, f"Linux {release}", f"podwire needs Linux {oldest} or later")
    for program, package in (
        ("runc", "runc"),
        ("conmon", "conmon"),
        ("setsid", "util-linux"),
        ("unshare", "util-linux"),
    ):
        yield _program(program, package)
    yield _program("iptables-restore", "iptables")
    yield _cgroups()


def _node(bridge: str) -> Iterator[Finding]:
    """What is different in each network namespace."""
    forward = read_sysctl("net/ipv4/ip_forward")
    yield Finding(
        "forwarding", True, f"net.ipv4.ip_forward is {forward}" + ("" if forward == "1" else "; podwire sets it")
    )
    bridged = read_sysctl("net/bridge/bridge-nf-call-iptables")
    state = "br_netfilter is not loaded" if bridged is None else f"net.bridge.bridge-nf-call-iptables is {bridged}"
    yield Finding("bridge-nf", True, f"{state}; either way is fine, pods are routed")
    limit, count = read_sysctl("net/netfilter/nf_conntrack_max"), read_sysctl("net/netfilter/nf_conntrack_count")
    if limit and count:
        yield _check(
            "conntrack",
            int(count) < int(limit) * 0.9,
            f"{count} of {limit} connections tracked",
            "raise net.netfilter.nf_conntrack_max: new connections are dropped when the table is full",
        )
    with Links() as links:
        present = bridge in links.names()
    yield Finding(
        "bridge", True, f"bridge {bridge} exists; it will be used" if present else f"bridge {bridge} will be made"
    )


def _check(name: str, ok: bool, what: str, hint: str) -> Finding:
    return Finding(name, ok, what, "" if ok else hint)


def _program(program: str, package: str) -> Finding:
    place = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return _check(program, place is not None, place or f"no {program}", f"install it: apt-get install {package}")


def _cgroups() -> Finding:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        controllers = (root / "cgroup.controllers").read_text().split()
        return _check(
            "cgroups", "pids" in controllers, f"cgroup v2: {' '.join(controllers)}", "mount cgroup2 with controllers"
        )
    v1 = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
    ok = "devices" in v1 and "pids" in v1
    return _check(
        "cgroups", ok, f"cgroup v1: {' '.join(v1)}" if v1 else "no cgroups", "mount cgroups at /sys/fs/cgroup"
    )


def _overlay() -> Finding:
    """A module that is not loaded yet is as good: the kernel loads it with the first mount (fs/filesystems.c)."""
    loaded = any(line.split()[-1] == "overlay" for line in Path("/proc/filesystems").read_text().splitlines())
    index = Path("/lib/modules", platform.release(), "modules.dep")
    ok = loaded or (index.exists() and "/overlay.ko" in index.read_text())
    hint = "use a kernel with CONFIG_OVERLAY_FS; without it, images that are folders cannot run"
    return _check("overlay", ok, "overlayfs is available" if ok else "no overlayfs", hint)


def _veth() -> Finding:
    """Make a bridge and a veth pair in a namespace that nobody else sees, and is gone with its thread."""
    try:
        namespaces.in_new(_try_links)
    except NetnsError as error:
        return Finding("links", False, str(error), "the kernel needs CONFIG_NET_NS, CONFIG_BRIDGE and CONFIG_VETH")
    return Finding("links", True, "network namespaces, bridges and veth pairs work")


def _try_links() -> None:
    with Links() as links, contextlib.ExitStack() as stack:
        links.ensure_bridge("try0", mac=mac_of("10.0.0.1"), mtu=DEFAULT_MTU)
        handle = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, handle)
        links.add_veth("try1", peer="try2", peer_namespace=handle, peer_mac=mac_of("10.0.0.2"), mtu=DEFAULT_MTU)
