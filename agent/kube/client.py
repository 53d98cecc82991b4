"""A client from a kubeconfig: lightkube finds the server, the trust and the credentials; what travels is raw JSON.

lightkube's models drop fields they do not know, so they are for reading (see ``informer.typed``), never for changing
somebody else's object. Informers and the CLI read raw JSON through ``http``; ``rest`` writes it.

A watch may be silent for minutes, so a peer that vanished without a word (a machine that lost power, a firewall that
forgot the connection) is found by TCP keepalive, within ``KEEPALIVE`` seconds.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import httpx2
from lightkube import KubeConfig
from lightkube.config.client_adapter import AsyncClient as connect_http
from lightkube.config.client_adapter import ConnectionParams, verify_cluster
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

TIMEOUT = 15.0  # seconds, for everything but a watch
KEEPALIVE = (15, 5, 3)  # seconds of silence before the first probe, seconds between probes, probes
CONNECTIONS = httpx2.Limits(max_connections=200, max_keepalive_connections=20, keepalive_expiry=30.0)


class KubeError(Exception):
    """The API server cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Client:
    """One API server; paths start with /api or /apis."""

    http: httpx2.AsyncClient
    server: str

    async def close(self) -> None:
        await self.http.aclose()


def connect(kubeconfig: Path | None, *, context: str | None = None, field_manager: str = "podwire") -> Client:
    """A Client from a kubeconfig file; ``None`` looks in-cluster, then ``$KUBECONFIG``, then ``~/.kube/config``."""
    try:
        config = KubeConfig.from_file(str(kubeconfig)) if kubeconfig else KubeConfig.from_env()
        single = config.get(context_name=context)
        if single is None:
            raise KubeError(f"cannot use kubeconfig {kubeconfig}: no such context: {context}")
        timeout = httpx2.Timeout(TIMEOUT)
        params = ConnectionParams(timeout=timeout, trust_env=False, transport=_transport(single))  # type: ignore[arg-type]
        http = connect_http(single, params)
        http.headers["User-Agent"] = field_manager  # an API server takes it for the manager of what it writes
        return Client(http=http, server=single.cluster.server)
    except (LightkubeConfigError, OSError) as error:
        raise KubeError(f"cannot use kubeconfig {kubeconfig or '(from the environment)'}: {error}") from error


def _transport(config: SingleConfig) -> httpx2.AsyncHTTPTransport:
    idle, interval, probes = KEEPALIVE
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes),
    ]
    trust = verify_cluster(config.cluster, config.user, config.abs_file, trust_env=False)  # type: ignore[arg-type]
    return httpx2.AsyncHTTPTransport(verify=trust, limits=CONNECTIONS, socket_options=options)
