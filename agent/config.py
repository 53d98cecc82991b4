"""What a node is told: one frozen value, made once by the CLI, handed down to every process.

A file (``--config``, YAML) and flags make a ``Config``; the supervisor writes it resolved to ``<run-dir>/config.json``
and each child process reads that. Names follow the flags of kube-proxy, kubelet and kube-apiserver where they exist.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

DEFAULT_STATE_DIR = Path("/var/lib/podwire")
DEFAULT_RUN_DIR = Path("/run/podwire")
LONGEST_SHUTDOWN = 1500  # seconds: systemd forces a shutdown after 30 minutes (JobTimeoutSec= of reboot.target)

Engine = Literal["auto", "libiptc", "restore"]
Variant = Literal["auto", "nft", "legacy"]


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file or flag, the field and what would be accepted."""


@dataclass(frozen=True)
class Paths:
    """Where things lie. ``state_dir`` survives a reboot, ``run_dir`` need not."""

    state_dir: Path

    @property
    def run_dir(self) -> Path:
        return DEFAULT_RUN_DIR if self.state_dir == DEFAULT_STATE_DIR else self.state_dir / "run"

    @property
    def database(self) -> Path:
        return self.state_dir / "store.db"

    @property
    def kubeconfig(self) -> Path:
        """For people and programs outside: the API server on the caller's own loopback."""
        return self.state_dir / "kubeconfig"

    @property
    def node_kubeconfig(self) -> Path:
        """For podwire's own processes: the API server on the node's address."""
        return self.state_dir / "node.kubeconfig"

    @property
    def pki(self) -> Path:
        return self.state_dir / "pki"

    @property
    def logs(self) -> Path:
        """Logs of podwire's processes, one file each."""
        return self.state_dir / "log"

    @property
    def pods(self) -> Path:
        """One folder per pod UID: etc/, containers/, and the log files of its containers."""
        return self.state_dir / "pods"

    @property
    def images(self) -> Path:
        """Folders that the user adds to the image catalogue."""
        return self.state_dir / "images"

    @property
    def ipam(self) -> Path:
        return self.state_dir / "ipam.json"

    @property
    def timeline(self) -> Path:
        return self.run_dir / "timeline.jsonl"

    @property
    def resolved_config(self) -> Path:
        return self.run_dir / "config.json"


@dataclass(frozen=True)
class Config:
    """One node. Addresses and CIDRs are strings in canonical form; durations are seconds.

    ``load_balancer_pool``: CIDRs and ranges ``first-last`` (see ``address_span``). ``cluster_cidrs``: the pod network
    beyond this node's ``pod_cidr``. ``node_port_addresses``: CIDRs or ``primary``; empty: all of the node's.
    ``shutdown_grace_period``: what pods have to end when the machine shuts down; 0: they are not ended (as kubelet's
    ``shutdownGracePeriod``).
    """

    state_dir: Path = DEFAULT_STATE_DIR
    node_name: str = field(default_factory=lambda: socket.gethostname().lower())
    node_netns: str | None = None
    node_ip: str = ""
    bridge: str = "podwire0"
    cluster_domain: str = "cluster.local"
    pod_cidr: str = "10.244.0.0/24"
    service_cidr: str = "10.96.0.0/12"
    node_port_range: tuple[int, int] = (30000, 32767)
    dns_ip: str = "10.96.0.10"
    dns_upstreams: tuple[str, ...] = ()
    dns_ttl: int = 5
    load_balancer_pool: tuple[str, ...] = ()
    cluster_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    node_port_addresses: tuple[str, ...] = ()
    localhost_node_ports: bool = False
    api_port: int = 6443
    kubelet_port: int = 10250
    shutdown_grace_period: float = 30.0
    proxy_mode: Literal["iptables"] = "iptables"
    proxy_engine: Engine = "auto"
    iptables_variant: Variant = "auto"
    verbose: bool = False

    @cached_property
    def paths(self) -> Paths:
        return Paths(self.state_dir)

    @property
    def gateway(self) -> str:
        """The bridge's address: the first host of the pod CIDR."""
        return str(ipaddress.ip_network(self.pod_cidr)[1])

    @property
    def kubernetes_ip(self) -> str:
        """The ClusterIP of the ``kubernetes`` Service: the first host of the service CIDR."""
        return str(ipaddress.ip_network(self.service_cidr)[1])


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_span(text: str) -> tuple[Address, Address]:
    """The first and the last address of a CIDR (``192.0.2.0/28``: all 16) or a range (``192.0.2.4-192.0.2.9``).

    Raises ValueError.
    """
    start, dash, end = (part.strip() for part in text.partition("-"))
    if not dash:
        network = ipaddress.ip_network(start)
        return network[0], network[-1]
    first, last = ipaddress.ip_address(start), ipaddress.ip_address(end)
    if first.version != last.version or int(first) > int(last):
        raise ValueError(f"{text!r} does not go from an address up to another one of its family")
    return first, last


def check_node_port_addresses(values: Iterable[str], *, where: str) -> None:
    """Raises ConfigError, which names the setting as ``where``."""
    for text in values:
        if text != "primary":
            _check_cidr(where, text, "a CIDR such as 192.0.2.0/24, or the word primary")


def check_cluster_cidrs(values: Iterable[str], *, where: str) -> None:
    """Raises ConfigError, which names the setting as ``where``."""
    for text in values:
        _check_cidr(where, text, "a CIDR such as 10.244.0.0/16")


def _check_cidr(where: str, text: str, expected: str) -> None:
    """Bits beyond the prefix are no mistake; a bare address is, because it is easily meant to be more."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"cannot use {where} {text!r}: {error}; expected {expected}") from error
    if "/" not in text:
        raise ConfigError(f"cannot use {where} {text!r}: it has no prefix length; expected {expected}")


def default_state_dir(node_netns: str | None) -> Path:
    """``/var/lib/podwire``; with a namespace ``/var/lib/podwire-NAME``, so that nodes can live side by side."""
    if not node_netns:
        return DEFAULT_STATE_DIR
    return DEFAULT_STATE_DIR.parent / f"podwire-{node_netns.removeprefix('podwire-')}"


def load_config(file: Path | None, **flags: Any) -> Config:
    """A Config from an optional YAML file and flags (None: not given); flags win. Raises ConfigError."""
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_yaml(file)
    values.update({name: value for name, value in flags.items() if value is not None})
    values.setdefault("state_dir", str(default_state_dir(values.get("node_netns"))))
    try:
        config = msgspec.convert(values, _strict(), dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(f"cannot use configuration {file or 'from flags'}: {error}") from error
    resolved = Config(
        **{name: value for name, value in msgspec.structs.asdict(config).items() if value is not msgspec.UNSET}
    )
    _check(resolved)
    return resolved


def dump_config(config: Config) -> bytes:
    return msgspec.json.encode(config, enc_hook=str)


def read_resolved(path: Path) -> Config:
    return msgspec.json.decode(path.read_bytes(), type=Config, dec_hook=_decode)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read configuration {file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read configuration {file}: not YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"cannot use configuration {file}: expected a mapping of names to values at the top")
    return loaded


def _strict() -> type[msgspec.Struct]:
    """A struct with Config's fields, all optional, that refuses unknown names (msgspec does so for structs only)."""
    hints = msgspec.inspect.type_info(Config)
    assert isinstance(hints, msgspec.inspect.DataclassType)
    types = typing.get_type_hints(Config)
    fields = [(f.name, types[f.name] | msgspec.UnsetType, msgspec.UNSET) for f in hints.fields]
    return msgspec.defstruct("Configuration", fields, forbid_unknown_fields=True)


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)


def _check(config: Config) -> None:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", config.node_name):
        raise ConfigError(
            f"cannot use node_name {config.node_name!r}: expected lower-case letters, digits, '-' and '.'; "
            "choose another with --node-name"
        )
    if config.node_netns is not None and not re.fullmatch(r"[^/\s]+", config.node_netns):
        raise ConfigError(f"cannot use node_netns {config.node_netns!r}: expected a name as `ip netns list` shows them")
    for name in ("pod_cidr", "service_cidr"):
        try:
            network = ipaddress.IPv4Network(getattr(config, name))
        except ValueError as error:
            raise ConfigError(f"cannot use {name}: {error}; expected an IPv4 CIDR such as 10.244.0.0/24") from error
        if network.prefixlen > 29:
            raise ConfigError(f"cannot use {name} {network}: it has room for hardly anything; at most /29")
    for name in ("dns_ip", "node_ip"):
        if name == "dns_ip" or config.node_ip:
            _check_address(name, getattr(config, name))
    if ipaddress.ip_address(config.dns_ip) not in ipaddress.ip_network(config.service_cidr):
        raise ConfigError(f"cannot use dns_ip {config.dns_ip}: it is outside service_cidr {config.service_cidr}")
    if not re.fullmatch(r"[^/\s:]{1,15}", config.bridge):
        raise ConfigError(f"cannot use bridge {config.bridge!r}: expected a link's name of at most 15 characters")
    for name in ("api_port", "kubelet_port"):
        if not 0 < getattr(config, name) < 65536:
            raise ConfigError(f"cannot use {name} {getattr(config, name)}: expected a port, 1 to 65535")
    if not 0 <= config.shutdown_grace_period <= LONGEST_SHUTDOWN:
        raise ConfigError(
            f"cannot use shutdown_grace_period {config.shutdown_grace_period:g}: expected seconds, "
            f"0 (pods are not ended) to {LONGEST_SHUTDOWN}"
        )
    check_cluster_cidrs(config.cluster_cidrs, where="cluster_cidrs")
    check_node_port_addresses(config.node_port_addresses, where="node_port_addresses")
    for text in config.load_balancer_pool:
        _check_pool(text, config)
    low, high = config.node_port_range
    if not 0 < low <= high < 65536:
        raise ConfigError(f"cannot use node_port_range {low}-{high}: expected two ports, the lower first")


def _check_pool(text: str, config: Config) -> None:
    try:
        first, last = address_span(text)
    except ValueError as error:
        expected = "a CIDR such as 192.0.2.240/28 or a range such as 192.0.2.240-192.0.2.250"
        raise ConfigError(f"cannot use load_balancer_pool {text!r}: {error}; expected {expected}") from error
    for address in (first, last):
        if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
            why = f"{address} is no address that can be reached from elsewhere"
            raise ConfigError(f"cannot use load_balancer_pool {text!r}: {why}; choose addresses of your network")
    for name in ("pod_cidr", "service_cidr"):
        network = ipaddress.ip_network(getattr(config, name))
        if network.version == first.version and int(first) <= int(network[-1]) and int(network[0]) <= int(last):
            why = f"it overlaps {name} {network}, whose addresses have owners"
            raise ConfigError(f"cannot use load_balancer_pool {text!r}: {why}; choose others")


def _check_address(name: str, text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError as error:
        raise ConfigError(f"cannot use {name}: {error}; expected an IPv4 address") from error
