"""What the DNS component is told: one frozen value, from a node's Config or from the flags of ``podwire dns``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.config import Config, ConfigError
from dnsserver.names import parse_name
from dnsserver.upstream import Server, parse_server
from dnsserver.zone import LONGEST_DOMAIN

MOST_TTL = 3600  # seconds, as CoreDNS's kubernetes plugin
HTTP_PORT = 9153  # where CoreDNS has its metrics


@dataclass(frozen=True)
class Options:
    """The DNS server of one node.

    ``listen``: addresses, each with ``port`` over UDP and TCP. ``service_cidrs`` and ``pod_cidrs``: whose reverse names
    are answered here. ``ttl``: seconds. ``upstreams``: ``ADDRESS`` or ``ADDRESS:PORT`` (``[v6]:PORT``); none means the
    nameservers of ``resolv_conf``, without those that are this server itself (``listen`` and ``own_addresses``).
    ``stub_domains``: (suffix, its servers). ``pods``: what ``1-2-3-4.ns.pod.Z`` answers, as CoreDNS's option.
    ``timeline``: file for the marks of The Sequence. ``http``: address and port of /ready, /health and /metrics.
    Raises ConfigError for values that cannot be used.
    """

    listen: tuple[str, ...]
    port: int = 53
    cluster_domain: str = "cluster.local"
    service_cidrs: tuple[str, ...] = ("10.96.0.0/12",)
    pod_cidrs: tuple[str, ...] = ()
    ttl: int = 5
    upstreams: tuple[str, ...] = ()
    stub_domains: tuple[tuple[str, tuple[str, ...]], ...] = ()
    pods: Literal["disabled", "insecure", "verified"] = "disabled"
    resolv_conf: Path = Path("/etc/resolv.conf")
    own_addresses: tuple[str, ...] = ()
    timeline: Path | None = None
    http: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        _check("listen", self.listen, ipaddress.ip_address, "IP addresses")
        _check("service_cidrs and pod_cidrs", self.service_cidrs + self.pod_cidrs, ipaddress.ip_network, "CIDRs")
        _check("upstreams", self.upstreams, parse_server, "ADDRESS or ADDRESS:PORT")
        _check("cluster_domain and stub_domains", self._suffixes, parse_name, "domain names")
        _check(
            "stub_domains", [server for _, servers in self.stub_domains for server in servers], parse_server, "servers"
        )
        if not self.listen:
            raise ConfigError("cannot run a DNS server without an address to listen on: give at least one")
        if not 0 < len(self.cluster_domain.strip(".")) <= LONGEST_DOMAIN:
            raise ConfigError(f"cannot use cluster_domain {self.cluster_domain!r}: 1 to {LONGEST_DOMAIN} characters")
        if not 0 <= self.ttl <= MOST_TTL:
            raise ConfigError(f"cannot use a DNS TTL of {self.ttl}: expected 0 to {MOST_TTL} seconds")

    @classmethod
    def from_config(cls, config: Config) -> Options:
        """The node's own server: on its address and on the bridge's, which pods that know nothing else can reach."""
        return cls(
            listen=tuple(dict.fromkeys((config.node_ip, config.gateway))),
            cluster_domain=config.cluster_domain,
            service_cidrs=(config.service_cidr,),
            pod_cidrs=(config.pod_cidr,),
            ttl=config.dns_ttl,
            upstreams=config.dns_upstreams,
            own_addresses=(config.dns_ip,),
            timeline=config.paths.timeline,
            http=(config.node_ip, HTTP_PORT),
        )

    @property
    def stub_servers(self) -> tuple[tuple[str, tuple[Server, ...]], ...]:
        return tuple((suffix, tuple(map(parse_server, servers))) for suffix, servers in self.stub_domains)

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return (self.cluster_domain, *(suffix for suffix, _ in self.stub_domains))


def _check(name: str, values: object, parse: object, expected: str) -> None:
    assert callable(parse)
    for value in values:  # type: ignore[attr-defined]
        try:
            parse(value)
        except ValueError as error:
            raise ConfigError(f"cannot use {name} {value!r}: {error}; expected {expected}") from error
