"""What the proxy is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.config import Config, Engine, Variant
from rules.policy.addresses import family_of, parse_network
from rules.snapshot import Family, Settings

METRICS_PORT = 10249  # kube-proxy's


@dataclass(frozen=True)
class Options:
    """``node_name`` says which endpoints are local. Durations are seconds, addresses ``host:port``.

    ``cluster_cidrs``: the whole pod network; empty: unknown (then no source is masqueraded as an outsider).
    ``egress_cidrs``: this node's pods, whose address is hidden when they leave the pod network, if
    ``masquerade_egress``. ``web``: where ``/metrics``, ``/healthz`` and ``/livez`` are served; None: nowhere.
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

    @classmethod
    def from_config(cls, config: Config) -> Options:
        return cls(
            node_name=config.node_name,
            cluster_cidrs=(config.pod_cidr,),
            egress_cidrs=(config.pod_cidr,),
            pod_bridge=config.bridge,
            masquerade_egress=True,
            engine=config.proxy_engine,
            variant=config.iptables_variant,
            timeline=config.paths.timeline,
            web=f"{config.node_ip}:{METRICS_PORT}",
        )

    @property
    def families(self) -> tuple[Family, ...]:
        """IPv4 always, IPv6 where the pod network has it. Raises ValueError for what is no CIDR."""
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
