"""``--dry-run=dataplane`` as ``apply`` and ``delete`` see it. What it takes is loaded only where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.objects import Obj
from agent.cli.kubectl.targets import Target

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster
    from agent.cli.kubectl.forecast import Teller


@dataclass(frozen=True, slots=True)
class Edit:
    """An object as it is (None: there is none), as the server would store it (None: deleted), and as it was written.

    ``done`` is created, configured, unchanged or deleted.
    """

    target: Target
    done: str
    before: Obj | None
    after: Obj | None
    manifest: Obj = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.target.resource.kind

    @property
    def group(self) -> str:
        return self.target.resource.group

    @property
    def namespace(self) -> str:
        return self.target.namespace or ""

    @property
    def name(self) -> str:
        return self.target.name


def open_teller(cluster: Cluster, dry_run: str, mode: str, flags: Mapping[str, Any]) -> Teller | None:
    """Who tells of each edit; None unless it is asked for. Raises KubectlError."""
    chosen = {name: flags[name] for name in ("node_name", "cluster_cidrs")}
    if dry_run == "dataplane":
        from agent.cli.kubectl.forecast import Teller

        return Teller(cluster, mode, **chosen)
    if any(chosen.values()):
        raise client_error("--node-name and --cluster-cidr are for --dry-run=dataplane only")
    return None
