"""Chain names: kube-proxy's, so that rules read as people know them, and which chains are ours to change.

A chain name has at most 28 characters (XT_EXTENSION_MAXNAMELEN is 29 with its final zero), too few for a Service's
name. So per-Service chains are called after a hash, which is the same on every node and after every restart.
"""

from __future__ import annotations

import base64
import functools
import hashlib

MAX_CHAIN_NAME = 28

SERVICES = "KUBE-SERVICES"
NODE_PORTS = "KUBE-NODEPORTS"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
POSTROUTING = "KUBE-POSTROUTING"
MARK_MASQ = "KUBE-MARK-MASQ"
FORWARD = "KUBE-FORWARD"
FIREWALL = "KUBE-PROXY-FIREWALL"
EGRESS = "PODWIRE-EGRESS"
OUTSIDERS = "PODWIRE-OUTSIDERS"
MARTIANS = "PODWIRE-MARTIANS"

# Jumped to from built-in chains.
ENTRIES = frozenset({SERVICES, EXTERNAL_SERVICES, POSTROUTING, FORWARD, FIREWALL, EGRESS, MARTIANS})
_SHARED = ENTRIES | {NODE_PORTS, MARK_MASQ}
SERVICE_PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-")  # chains to which destinations lead
_PREFIXES = (*SERVICE_PREFIXES, "KUBE-SEP-", "PODWIRE-")

MADE = "PODWIRE-MADE-"  # empty chains: an engine's note of what was not there before it came
MADE_TABLE = f"{MADE}TABLE"


def is_ours(chain: str) -> bool:
    """May podwire change this chain? kubelet's and other people's ``KUBE-`` chains are not ours."""
    return chain in _SHARED or chain.startswith(_PREFIXES)


def service_chain(port: str, protocol: str) -> str:
    """Spreads over all endpoints. ``port`` is ``namespace/name:port``."""
    return f"KUBE-SVC-{_digest(port, protocol)}"


def local_chain(port: str, protocol: str) -> str:
    """Spreads over this node's endpoints."""
    return f"KUBE-SVL-{_digest(port, protocol)}"


def external_chain(port: str, protocol: str) -> str:
    """What comes from outside: NodePort, external IP, load balancer IP."""
    return f"KUBE-EXT-{_digest(port, protocol)}"


def firewall_chain(port: str, protocol: str) -> str:
    """Lets the allowed sources of a load balancer IP pass."""
    return f"KUBE-FW-{_digest(port, protocol)}"


def endpoint_chain(port: str, protocol: str, endpoint: str) -> str:
    """Rewrites the destination to one endpoint (``address:port``)."""
    return f"KUBE-SEP-{_digest(port, protocol, endpoint)}"


def branch_chain(port: str, protocol: str, branch: str) -> str:
    """Part of a Service's endpoints, where they are many. ``branch`` says which."""
    return f"PODWIRE-B-{_digest(port, protocol, branch)}"


def address_chain(directory: str, network: str) -> str:
    """Lines about addresses in a network; ``directory`` is a letter. ``PODWIRE-V-10.96.3.0/24`` (a CIDR of IPv6 has no
    room there, so a hash stands for it; the jump's comment says which)."""
    return f"PODWIRE-{directory}-{_digest(network, '') if ':' in network else network}"


def ports_chain(directory: str, protocol: str, ports: str) -> str:
    """Lines about ports in a range: ``PODWIRE-P-tcp-30208-30223``."""
    return f"PODWIRE-{directory}-{protocol}-{ports}"


def clients_set(port: str, protocol: str, endpoint: str, *, family: int) -> str:
    """The set of clients that stay with an endpoint (31 characters at most: IPSET_MAXNAMELEN)."""
    return f"{set_prefix(family)}{_digest(port, protocol, endpoint)}"


def set_prefix(family: int) -> str:
    """What the names of one family's sets begin with, and nobody else's."""
    return f"PODWIRE-{family}-"


def endpoint_key(port: str, protocol: str, endpoint: str) -> str:
    """Hexadecimal digits that spread endpoints evenly over a tree."""
    return _hash(port, protocol, endpoint).hex()[:16]


@functools.lru_cache(maxsize=8192)  # a Service's names are wanted several times while it is lowered
def _digest(port: str, protocol: str, endpoint: str = "") -> str:
    """80 bits of SHA-256 in base32, over the same text as kube-proxy (pkg/proxy/iptables: portProtoHash)."""
    return base64.b32encode(_hash(port, protocol, endpoint)[:10]).decode()


def _hash(port: str, protocol: str, endpoint: str) -> bytes:
    return hashlib.sha256(f"{port}{protocol.lower()}{endpoint}".encode()).digest()
