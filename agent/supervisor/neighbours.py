"""Who else is on this machine: on port 53, and in netfilter. What was found, what it means, what to do.

``podwire check`` prints it before a node is started; the supervisor logs it when one starts. Nothing is changed:
podwire keeps to its own addresses and its own chains, and tells what only a person should decide.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence

from agent.config import Config
from agent.shell import run
from agent.supervisor.prepare import in_node
from dnsserver.ports import find_holder
from netns.host import Finding, node_addresses
from rules.iptables.engines import EngineError
from rules.iptables.neighbours import find_neighbours, look_around
from rules.iptables.preflight import preflight

DNS_PORT = 53
IP_FREEBIND = 15  # linux/in.h: bind to an address that is not there yet, as the bridge's before the first start
_KINDS = ((socket.SOCK_DGRAM, "udp"), (socket.SOCK_STREAM, "tcp"))
_STUBS = ("127.0.0.1", "127.0.0.53", "127.0.0.54")  # where systemd-resolved and dnsmasq are at home

# How to make well-known servers leave addresses that are not theirs; by the name of the process.
_REMEDIES = {
    "dnsmasq": "put bind-interfaces and listen-address=127.0.0.1 into /etc/dnsmasq.d/podwire.conf and restart dnsmasq",
    "systemd-resolve": "take DNSStubListenerExtra= out of /etc/systemd/resolved.conf and restart systemd-resolved",
    "named": "set listen-on { 127.0.0.1; }; in BIND's options and restart it",
    "unbound": "set interface: 127.0.0.1 in unbound.conf and restart it",
}


def describe(finding: Finding) -> str:
    """For the log, in one line."""
    return f"{finding.name}: {finding.what}{f' -> {finding.hint}' if finding.hint else ''}"


def look_at_port_53(config: Config) -> tuple[Finding, ...]:
    """Whether the DNS server can have its port: on the node's address and on the bridge's, which is all it needs."""
    return in_node(config, lambda: tuple(_port_53(_dns_addresses(config))))


def look_at_firewalls(config: Config) -> tuple[Finding, ...]:
    """Other people's rules in the node's namespace. A finding with a hint keeps some packets of pods from passing."""
    return in_node(config, lambda: tuple(_firewalls(config)))


def _dns_addresses(config: Config) -> tuple[str, ...]:
    """As ``agent.dns.Options`` has them, on a node that may not have started yet."""
    primary = config.node_ip or next(iter(node_addresses(without=(config.bridge,))), config.gateway)
    return tuple(dict.fromkeys((primary, config.gateway)))


def _port_53(addresses: Sequence[str]) -> Iterator[Finding]:
    for _, proto in _KINDS:
        for stub in _STUBS:
            if stub not in addresses and (holder := find_holder(stub, DNS_PORT, proto)):
                yield Finding(f"port 53/{proto}", True, f"{holder} has {stub}:53, which podwire does not need")
                break
    for kind, proto in _KINDS:
        taken = [address for address in addresses if not _is_free(address, kind)]
        if not taken:
            yield Finding(f"port 53/{proto}", True, f"free on {' and '.join(addresses)}")
        for address in taken:
            yield _taken(address, proto)


def _is_free(address: str, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as attempt:
        attempt.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the DNS server: TIME_WAIT is no holder
        try:
            attempt.bind((address, DNS_PORT))
            if kind == socket.SOCK_STREAM:
                attempt.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def _taken(address: str, proto: str) -> Finding:
    holder = find_holder(address, DNS_PORT, proto) or "a process that cannot be seen"
    remedy = _REMEDIES.get(holder.split(" (")[0], "stop it, or let it listen on addresses of its own only")
    hint = f"{remedy}; `ss -lnp sport = :53` shows who listens"
    return Finding(f"port 53/{proto}", False, f"{holder} has {address}:53, where podwire's DNS server belongs", hint)


def _firewalls(config: Config) -> Iterator[Finding]:
    try:
        choice = preflight(run, engine=config.proxy_engine, variant=config.iptables_variant)
        around = look_around(run)
    except EngineError as error:
        yield Finding("firewall", True, str(error), "until then nobody can tell whether a firewall is in the way")
        return
    for found in find_neighbours(around, variant=choice.variant, bridge=config.bridge):
        yield Finding("firewall", True, found.what, found.advice)
