"""What must be there before the first child starts: the node's namespace, its bridge and address, a socket, keys.

Each step is idempotent: after a crash, or on a node whose pods still run, nothing is torn down.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from agent.config import Config, Paths, dump_config
from agent.pki import ensure_pki
from agent.supervisor.state import SupervisorError
from netns import host, namespaces
from netns.errors import NetnsError

T = TypeVar("T")

BACKLOG = 512  # connections that wait while the API server starts


@dataclass(frozen=True, slots=True)
class Prepared:
    """``config`` with the node's address filled in.

    ``listeners``: the API server's sockets, on the caller's loopback and on the node's address. They outlive the API
    server, so that a client that comes while it starts again waits a moment and is not refused.
    """

    config: Config
    listeners: tuple[socket.socket, ...]


def prepare(config: Config) -> Prepared:
    """Make the node ready for its processes. Raises SupervisorError with what to do."""
    _refuse_unfit_machine()
    paths = config.paths
    for folder in (paths.state_dir, paths.run_dir, paths.logs, paths.pods, paths.images):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _ensure_namespace(config)
        resolved = replace(config, node_ip=in_node(config, lambda: _prepare_network(config)))
    except NetnsError as error:
        raise SupervisorError(f"cannot prepare node {config.node_name}: {error}") from error
    listeners = (_listen(config.api_port, paths), in_node(config, lambda: _listen_on_node(resolved)))
    ensure_pki(resolved, loopback_port=listeners[0].getsockname()[1])
    paths.resolved_config.write_bytes(dump_config(resolved))
    return Prepared(resolved, listeners)


def _refuse_unfit_machine() -> None:
    """A node that could never start a pod is better not started."""
    missing = [finding for finding in host.preflight_machine() if not finding.ok]
    if missing:
        reasons = "; ".join(f"{finding.what}: {finding.hint}" for finding in missing)
        raise SupervisorError(f"cannot start a node on this machine: {reasons} ('podwire check' shows everything)")


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
    """Bridge, sysctls, route; returns the node's address: the one asked for, else the primary, else the bridge's."""
    network = ipaddress.ip_network(config.pod_cidr)
    host.prepare_node(config.bridge, f"{config.gateway}/{network.prefixlen}", memory=sysctl_memory(config.paths))
    address = _node_address(config, host.node_addresses(without=(config.bridge,)))
    host.ensure_service_route(config.bridge, config.service_cidr, source=address)
    return address


def _node_address(config: Config, addresses: Sequence[str]) -> str:
    if not config.node_ip:
        return addresses[0] if addresses else config.gateway
    if config.node_ip not in (*addresses, config.gateway):
        known = ", ".join(addresses) or "none but the bridge's"
        raise SupervisorError(f"cannot use --node-ip {config.node_ip}: no interface has it (addresses: {known})")
    return config.node_ip


def _listen(port: int, paths: Paths) -> socket.socket:
    """The API server's socket on the caller's loopback: the port of last time, else ``port``, else a free one."""
    memory = paths.state_dir / "loopback-port"
    noted = memory.read_bytes() if memory.exists() else b""
    last = int(noted) if re.fullmatch(rb"[1-9]\d{0,4}", noted) and int(noted) < 65536 else port
    for candidate in dict.fromkeys((last, port, 0)):
        try:
            listener = socket.create_server(("127.0.0.1", candidate), backlog=BACKLOG)
        except OSError:
            continue
        memory.write_text(str(listener.getsockname()[1]))
        return listener
    raise SupervisorError(f"cannot listen on 127.0.0.1:{port}, nor on any other port of the loopback")


def _listen_on_node(config: Config) -> socket.socket:
    try:
        return socket.create_server((config.node_ip, config.api_port), backlog=BACKLOG)
    except OSError as error:
        raise SupervisorError(
            f"cannot listen on the node's address {config.node_ip}:{config.api_port}: {os.strerror(error.errno or 0)}; "
            f"is another API server there? Set api_port in the configuration"
        ) from error
