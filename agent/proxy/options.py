"""What the proxy is told: one frozen value, from a node's Config or from the flags of ``podwire proxy``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config import (
    Config,
    ConfigError,
    Engine,
    Variant,
    check_cluster_cidrs,
    check_node_port_addresses,
)
from rules.policy.addresses import family_of, parse_network
from rules.snapshot import Family, Settings

METRICS_PORT, HEALTH_PORT = 10249, 10256  # kube-proxy's


@dataclass(frozen=True)
class Options:
    """``node_name`` says which endpoints are local. Durations are seconds, addresses ``host:port``.

    ``cluster_cidrs``: the whole pod network; empty: unknown (then no source is masqueraded as an outsider).
    ``egress_cidrs``: this node's pods, whose address is hidden when they leave the pod network, if
    ``masquerade_egress``. ``web``: where ``/metrics``, ``/healthz`` and ``/livez`` are served, and ``healthz``: where
    they are as well, for load balancers, which ask for them on a port of their own; empty: nowhere.
    """

    node_name: str
    cluster_cidrs: tuple[str, ...] = ()
    egress_cidrs: tuple[str, ...] = ()
    pod_bridge: str = ""
    masquerade_egress: bool = False
    masquerade_all: bool = False
    node_port_addresses: tuple[str, ...] = ()
    localhost_node_ports: bool = False
    engine: Engine = "auto"
    variant: Variant = "auto"
    min_interval: float = 0.005
    health_timeout: float = 60.0
    timeline: Path | None = None
    web: str | None = None
    healthz: str | None = None

    def __post_init__(self) -> None:
        if not self.node_name:
            raise ConfigError("cannot run the proxy without the name of its Node object; give it with --node-name")
        check_cluster_cidrs(self.cluster_cidrs + self.egress_cidrs, where="cluster CIDR")
        check_node_port_addresses(self.node_port_addresses, where="NodePort address")
        if self.masquerade_egress and not self.egress_cidrs:
            raise ConfigError("cannot masquerade egress without knowing the pods' addresses; give --cluster-cidr too")

    @classmethod
    def from_flags(
        cls,
        *,
        cluster_cidr: Iterable[str] = (),
        nodeport_addresses: Iterable[str] = (),
        masquerade_egress: bool = False,
        **others: Any,
    ) -> Options:
        """Each value of ``cluster_cidr`` and ``nodeport_addresses`` may be a list with commas; ``others``: fields.

        Egress of every pod that passes here is masqueraded, since nobody says which pods are this node's. Raises
        ConfigError.
        """
        network = _split(cluster_cidr)
        return cls(
            cluster_cidrs=network,
            egress_cidrs=network if masquerade_egress else (),
            masquerade_egress=masquerade_egress,
            node_port_addresses=_split(nodeport_addresses),
            **others,
        )

    @classmethod
    def from_config(cls, config: Config) -> Options:
        return cls(
            node_name=config.node_name,
            cluster_cidrs=tuple(dict.fromkeys((config.pod_cidr, *config.cluster_cidrs))),
            egress_cidrs=(config.pod_cidr,),
            pod_bridge=config.bridge,
            masquerade_egress=True,
            masquerade_all=config.masquerade_all,
            node_port_addresses=config.node_port_addresses,
            localhost_node_ports=config.localhost_node_ports,
            engine=config.proxy_engine,
            variant=config.iptables_variant,
            timeline=config.paths.timeline,
            web=f"{config.node_ip}:{METRICS_PORT}",
            healthz=f"{config.node_ip}:{HEALTH_PORT}",
        )

    @property
    def families(self) -> tuple[Family, ...]:
        """IPv4 always, IPv6 where the pod network has it."""
        networks = (parse_network(cidr) for cidr in self.cluster_cidrs)
        return tuple(sorted({Family.IPV4, *(family_of(network) for network in networks)}))

    @property
    def settings(self) -> Settings:
        return Settings(
            cluster_cidrs=self.cluster_cidrs,
            masquerade_all=self.masquerade_all,
            egress_cidrs=self.egress_cidrs if self.masquerade_egress else (),
            pod_bridge=self.pod_bridge,
            node_port_addresses=self.node_port_addresses,
            localhost_node_ports=self.localhost_node_ports,
        )


def _split(values: Iterable[str]) -> tuple[str, ...]:
    """``a,b`` and ``c`` as a, b, c; each once."""
    parts = (part.strip() for value in values for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))
