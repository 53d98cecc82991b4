"""Chain names: kube-proxy's, so that rules read as people know them, and which chains are ours to change.

A chain name has at most 28 characters (XT_EXTENSION_MAXNAMELEN is 29 with its final zero), too few for a Service's
name. So per-Service chains are called after a hash, which is the same on every node and after every restart.
"""

from __future__ import annotations

import base64
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

ENTRIES = frozenset({SERVICES, EXTERNAL_SERVICES, POSTROUTING, FORWARD, FIREWALL, EGRESS})  # jumped to from built-ins
_SHARED = ENTRIES | {NODE_PORTS, MARK_MASQ}
_PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "PODWIRE-")

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


def _digest(port: str, protocol: str, endpoint: str = "") -> str:
    """80 bits of SHA-256 in base32, over the same text as kube-proxy (pkg/proxy/iptables: portProtoHash)."""
    raw = hashlib.sha256(f"{port}{protocol.lower()}{endpoint}".encode()).digest()
    return base64.b32encode(raw).decode()[:16]
