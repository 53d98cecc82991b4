"""What must be there before the first child starts: the node's namespace, its bridge and address, a socket, keys.

Each step is idempotent: after a crash, or on a node whose pods still run, nothing is torn down.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from agent.config import Config, Paths, dump_config
from agent.pki import ensure_pki
from agent.supervisor.state import SupervisorError
from netns import host, namespaces
from netns.errors import NetnsError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """``config`` with the node's address filled in; ``listener`` is bound to the caller's loopback."""

    config: Config
    listener: socket.socket


def prepare(config: Config) -> Prepared:
    """Make the node ready for its processes. Raises SupervisorError with what to do."""
    paths = config.paths
    for folder in (paths.state_dir, paths.run_dir, paths.logs, paths.pods, paths.images):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _ensure_namespace(config)
        resolved = replace(config, node_ip=in_node(config, lambda: _prepare_network(config)))
    except NetnsError as error:
        raise SupervisorError(f"cannot prepare node {config.node_name}: {error}") from error
    listener = _listen(config.api_port, paths)
    ensure_pki(resolved, loopback_port=listener.getsockname()[1])
    paths.resolved_config.write_bytes(dump_config(resolved))
    return Prepared(resolved, listener)


def in_node(config: Config, work: Callable[[], T]) -> T:
    """Do ``work`` in the node's network namespace."""
    return namespaces.inside(config.node_netns, work) if config.node_netns else work()


def made_namespace(paths: Paths) -> Path:
    """A file that says: the node's namespace was made by podwire, so ``clean`` takes it away."""
    return paths.state_dir / "made-netns"


def sysctl_memory(paths: Paths) -> Path:
    """What sysctls were before podwire set them, so that ``clean`` can put them back."""
    return paths.state_dir / "sysctls.json"


def _ensure_namespace(config: Config) -> None:
    if config.node_netns and not namespaces.exists(config.node_netns):
        made_namespace(config.paths).write_text(config.node_netns)
        namespaces.ensure(config.node_netns)


def _prepare_network(config: Config) -> str:
    """Bridge and sysctls; returns the node's address: the one asked for, else the primary one, else the bridge's."""
    network = ipaddress.ip_network(config.pod_cidr)
    host.prepare_node(config.bridge, f"{config.gateway}/{network.prefixlen}", memory=sysctl_memory(config.paths))
    host.ensure_service_route(config.bridge, config.service_cidr, source=config.gateway)
    addresses = host.node_addresses(without=(config.bridge,))
    if config.node_ip:
        if config.node_ip not in (*addresses, config.gateway):
            known = ", ".join(addresses) or "none but the bridge's"
            raise SupervisorError(f"cannot use --node-ip {config.node_ip}: no interface has it (addresses: {known})")
        return config.node_ip
    return addresses[0] if addresses else config.gateway


def _listen(port: int, paths: Paths) -> socket.socket:
    """The API server's socket on the caller's loopback: the port of last time, else ``port``, else a free one."""
    memory = paths.state_dir / "loopback-port"
    last = int(memory.read_text()) if memory.exists() else port
    for candidate in dict.fromkeys((last, port, 0)):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
        except OSError:
            listener.close()
            continue
        listener.listen(512)
        memory.write_text(str(listener.getsockname()[1]))
        return listener
    raise SupervisorError(f"cannot listen on 127.0.0.1:{port}, nor on any other port of the loopback")
