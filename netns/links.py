"""Netlink, one small idempotent verb at a time, and the errno turned into a sentence.

A ``Links`` is one netlink socket. The kernel ties it to the network namespace of the thread that opens it (socket(7):
a socket belongs to the namespace it was made in), so a namespace is configured by opening one inside it, see
``namespaces.inside``. pyroute2's ``NetNS`` would fork a helper process per namespace for the same purpose. Opening one
costs half a millisecond, so they are opened per operation and nothing is shared between threads.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netns.errors import NetnsError

SYSCTL = Path("/proc/sys")
IFNAMSIZ = 15  # longest name of a network device (linux/if.h, less the final zero)


def mac_of(address: str) -> str:
    """A MAC address made from an IPv4 address: the same address always has the same one, so no neighbour cache gets
    stale.

    ``0a`` marks it as locally administered; ``58`` is the tradition of the CNI plugins.
    """
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def index_of(name: str) -> int | None:
    """The index of a link in the current thread's namespace, or None. An ioctl: much quicker than netlink is here."""
    try:
        return socket.if_nametoindex(name)
    except OSError:  # its only meaning: Python 3.11 sets no errno
        return None


class Links:
    """A netlink socket of the current thread's namespace. Use it as a context manager. Methods raise NetnsError."""

    def __init__(self) -> None:
        self._netlink = IPRoute()

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def index(self, name: str) -> int | None:
        """As ``index_of``."""
        return index_of(name)

    def require(self, name: str) -> int:
        index = self.index(name)
        if index is None:
            raise NetnsError(f"there is no link {name} in this network namespace")
        return index

    def names(self) -> tuple[str, ...]:
        with translated("list links"):
            return tuple(link.get("ifname") for link in self._netlink.link("dump"))

    def addresses(self) -> tuple[tuple[str, ipaddress.IPv4Interface | ipaddress.IPv6Interface], ...]:
        """(link, address) for every address in this namespace."""
        with translated("list addresses"):
            links = {link["index"]: link.get("ifname") for link in self._netlink.link("dump")}
            found = list(self._netlink.addr("dump"))
        return tuple(
            # IFA_LOCAL is this end of a point-to-point link; plain links have IFA_ADDRESS only (or both, equal).
            (links[a["index"]], ipaddress.ip_interface(f"{a.get('local') or a.get('address')}/{a['prefixlen']}"))
            for a in found
        )

    def set(self, name: str, **what: Any) -> None:
        """``state``, ``master`` (an index), ``mtu``, ``address`` (MAC), ``net_ns_fd`` and so on, as in ``ip link
        set``.
        """
        with translated(f"set {_words(what)} of link {name}"):
            self._netlink.link("set", index=self.require(name), **what)

    def ensure_bridge(self, name: str, *, mac: str, mtu: int) -> None:
        """A bridge that is up. Its MAC is fixed: otherwise it would follow its ports', and neighbours' caches get
        stale.
        """
        with translated(f"make bridge {name}"):
            if self.index(name) is None:
                self._netlink.link("add", ifname=name, kind="bridge", br_mcast_snooping=0)
            self._netlink.link("set", index=self.require(name), address=mac, mtu=mtu, state="up")

    def add_veth(
        self, name: str, *, master: int | None = None, peer: str, peer_namespace: int, peer_mac: str, mtu: int
    ) -> None:
        """A veth pair, ``name`` up and a port of the bridge ``master`` (an index), in one request.

        ``peer`` is born in another namespace (an open handle): it never shows up in this one.
        """
        other = {"ifname": peer, "net_ns_fd": peer_namespace, "address": peer_mac, "mtu": mtu}
        what: dict[str, Any] = {"kind": "veth", "mtu": mtu, "state": "up", "peer": other}
        if master is not None:
            what["master"] = master
        with translated(f"make veth {name}"):
            self._netlink.link("add", ifname=name, **what)

    def remove(self, name: str) -> None:
        """Delete a link (a veth takes its peer with it); nothing happens if there is none."""
        index = self.index(name)
        if index is None:
            return
        try:
            self._netlink.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise NetnsError(f"cannot remove link {name}: {error}") from error

    def set_hairpin(self, name: str, on: bool = True) -> None:
        """Whether a bridge may send a frame back out of the port that it came in by."""
        with translated(f"set hairpin mode of bridge port {name}"):
            self._netlink.brport("set", index=self.require(name), mode=int(on))

    def ensure_address(self, name: str, interface: str) -> None:
        """``interface``: an address with its prefix length, such as 10.244.0.1/24."""
        parsed = ipaddress.ip_interface(interface)
        with translated(f"give {interface} to link {name}"), tolerated(errno.EEXIST):
            self._netlink.addr(
                "add", index=self.require(name), address=str(parsed.ip), prefixlen=parsed.network.prefixlen
            )

    def ensure_route(
        self, destination: str, *, link: str, gateway: str | None = None, source: str | None = None
    ) -> None:
        """A route through ``link``: to a neighbour (no gateway), or through a gateway that is one."""
        what: dict[str, Any] = {"dst": destination, "oif": self.require(link)}
        if gateway is None:
            what["scope"] = "link"
        else:
            what |= {"gateway": gateway, "flags": ["onlink"]}
        if source is not None:
            what["prefsrc"] = source
        with translated(f"route {destination} through {link}"), tolerated(errno.EEXIST):
            self._netlink.route("add", **what)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Netlink's errors as NetnsError: "cannot <what>: <why>"."""
    try:
        yield
    except NetlinkError as error:
        hint = "; this needs root (CAP_NET_ADMIN)" if error.code == errno.EPERM else ""
        raise NetnsError(f"cannot {what}: {os.strerror(error.code)}{hint}") from error


@contextlib.contextmanager
def tolerated(*codes: int) -> Iterator[None]:
    """For verbs that make sure of something: these errors say that it is so already."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


def read_sysctl(name: str) -> str | None:
    """``name`` with slashes: net/ipv4/ip_forward. None if this kernel has no such setting."""
    try:
        return (SYSCTL / name).read_text().strip()
    except FileNotFoundError:
        return None


def write_sysctl(name: str, value: str) -> None:
    """Set it in the current thread's network namespace, unless it is so already."""
    if read_sysctl(name) == value:
        return
    try:
        (SYSCTL / name).write_text(value)
    except OSError as error:
        raise NetnsError(f"cannot set {name.replace('/', '.')}={value}: {error.strerror}") from error


def _words(what: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in what.items())
