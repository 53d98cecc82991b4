"""Clients from a kubeconfig: lightkube's typed one, and the same connection for raw JSON.

Typed models drop fields they do not know, so they are for reading and for small patches, never for read-modify-write of
somebody else's object. Informers and the CLI read raw JSON through ``http``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx2
from lightkube import AsyncClient, KubeConfig
from lightkube.config.client_adapter import AsyncClient as connect_http
from lightkube.config.client_adapter import ConnectionParams
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

TIMEOUT = 15.0  # seconds, for everything but a watch


class KubeError(Exception):
    """The API server cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Client:
    """One API server: ``typed`` for objects, ``http`` for raw JSON (paths start with /api or /apis)."""

    typed: AsyncClient
    http: httpx2.AsyncClient
    server: str

    async def close(self) -> None:
        await self.typed.aclose()
        await self.http.aclose()


def connect(kubeconfig: Path | None, *, context: str | None = None, field_manager: str = "podwire") -> Client:
    """A Client from a kubeconfig file; ``None`` looks in-cluster, then ``$KUBECONFIG``, then ``~/.kube/config``."""
    try:
        config = KubeConfig.from_file(str(kubeconfig)) if kubeconfig else KubeConfig.from_env()
        single = config.get(context_name=context)
        if single is None:
            raise KubeError(f"cannot use kubeconfig {kubeconfig}: no such context: {context}")
        params = ConnectionParams(timeout=httpx2.Timeout(TIMEOUT), trust_env=False)
        typed = AsyncClient(
            config=single, timeout=httpx2.Timeout(TIMEOUT), field_manager=field_manager, trust_env=False
        )
        return Client(typed=typed, http=connect_http(single, params), server=single.cluster.server)
    except (LightkubeConfigError, OSError) as error:
        raise KubeError(f"cannot use kubeconfig {kubeconfig or '(from the environment)'}: {error}") from error
