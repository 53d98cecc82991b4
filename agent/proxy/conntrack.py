"""Connections that outlive their endpoint: UDP has no end, so conntrack would send a talkative client to a dead
address for ever. After each change, entries whose original destination is one of ours and whose replies come from an
endpoint that is no longer usable are deleted; entries of healthy endpoints and other people's are left alone.

(TCP needs no help: a dead endpoint's connections end or reset by themselves.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.shell import CommandError
from rules.iptables.engines import Run
from rules.policy import Action, Frontends, Kind, PortFrontends
from rules.snapshot import Family

log = logging.getLogger(__name__)
CONNECTIONLESS = ("UDP", "SCTP")

Address = tuple[str, int]  # address and port
Place = tuple[str, str | None, int]  # protocol, address (None: this node's, a NodePort) and port


@dataclass(frozen=True, slots=True, order=True)
class Flow:
    """What a conntrack entry says of where it went: to ``destination``, answered by ``endpoint``."""

    protocol: str
    destination: Address
    endpoint: Address


def parse_flows(text: str) -> Iterator[Flow]:
    """Entries of ``conntrack -L``: original direction first, then the reply's, each as ``src= dst= sport= dport=``."""
    for line in text.splitlines():
        words = line.split()
        pairs = [word.split("=", 1) for word in words if "=" in word]
        values = {name: [value for key, value in pairs if key == name] for name in ("src", "dst", "sport", "dport")}
        if all(len(found) == 2 for found in values.values()):
            yield Flow(
                protocol=words[0].upper(),
                destination=(values["dst"][0], int(values["dport"][0])),
                endpoint=(values["src"][1], int(values["sport"][1])),
            )


def usable_endpoints(frontends: Frontends, family: Family) -> dict[Place, frozenset[Address]]:
    """For each connectionless frontend: the endpoints that its connections may be on."""
    found: dict[Place, frozenset[Address]] = {}
    for port in frontends.ports(family):
        if port.protocol in CONNECTIONLESS:
            found.update(_places(port))
    return found


def stale_flows(
    flows: Iterable[Flow],
    *,
    before: Mapping[Place, frozenset[Address]],
    after: Mapping[Place, frozenset[Address]],
    node_addresses: Iterable[str],
) -> list[Flow]:
    """Those to delete, each kind once."""
    local = set(node_addresses)
    return sorted({flow for flow in flows if _is_stale(flow, before, after, local)})


def delete_flows(run: Run, flows: Iterable[Flow]) -> int:
    """Delete these entries; returns how many kinds were found. Raises CommandError."""
    deleted = 0
    for flow in flows:
        try:
            run(_deletion(flow))
            deleted += 1
        except CommandError as error:
            if "0 flow entries" not in error.output:  # ended by itself meanwhile
                raise
    return deleted


def list_flows(run: Run, family: Family) -> list[Flow]:
    """All connectionless entries of this namespace. Raises CommandError."""
    name = "ipv4" if family is Family.IPV4 else "ipv6"
    texts = (run(("conntrack", "-L", "-f", name, "-p", protocol.lower())) for protocol in CONNECTIONLESS)
    return [flow for text in texts for flow in parse_flows(text.decode())]


def _places(port: PortFrontends) -> Iterator[tuple[Place, frozenset[Address]]]:
    for frontend in port.frontends:
        pools = {route.pool for route in frontend.routes if route.action is Action.FORWARD}
        usable = frozenset((b.address, b.port) for pool in pools for b in port.pool(pool))
        address = None if frontend.kind is Kind.NODE_PORT else frontend.address
        yield (port.protocol, address, frontend.port), usable


def _is_stale(
    flow: Flow,
    before: Mapping[Place, frozenset[Address]],
    after: Mapping[Place, frozenset[Address]],
    local: set[str],
) -> bool:
    address, port = flow.destination
    exact, node_port = (flow.protocol, address, port), (flow.protocol, None, port)
    if exact in after:
        return flow.endpoint not in after[exact]
    if exact in before:
        return flow.endpoint in before[exact]  # the Service is gone, or this address of it
    if node_port in after:  # the port alone does not say that the destination was this node
        ours = address in local or flow.endpoint in before.get(node_port, frozenset())
        return ours and flow.endpoint not in after[node_port]
    return flow.endpoint in before.get(node_port, frozenset())


def _deletion(flow: Flow) -> tuple[str, ...]:
    (address, port), (endpoint, endpoint_port) = flow.destination, flow.endpoint
    original = ("--orig-dst", address, "--orig-port-dst", str(port))
    reply = ("--reply-src", endpoint, "--reply-port-src", str(endpoint_port))
    return ("conntrack", "-D", "-p", flow.protocol.lower(), *original, *reply)
