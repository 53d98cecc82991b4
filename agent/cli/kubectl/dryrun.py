"""``--dry-run=dataplane`` as ``apply`` and ``delete`` see it. What it takes is loaded only where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent.cli.kubectl.errors import client_error

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster
    from agent.cli.kubectl.forecast import Teller


def open_teller(cluster: Cluster, dry_run: str, mode: str, flags: Mapping[str, Any]) -> Teller | None:
    """Who tells of each edit; None unless it is asked for. Raises KubectlError."""
    chosen = {name: flags[name] for name in ("node_name", "cluster_cidrs")}
    if dry_run == "dataplane":
        from agent.cli.kubectl.forecast import Teller

        return Teller(cluster, mode, **chosen)
    if any(chosen.values()):
        raise client_error("--node-name and --cluster-cidr are for --dry-run=dataplane only")
    return None
