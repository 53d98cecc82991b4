"""``--dry-run=dataplane``: what an edit does to traffic on a node, before it is made.

For each object: the server's own dry run says how it would be stored, ``prediction`` what controllers make of that, and
``rules.effects`` what is different then for a packet. One edit is told after the other, each on top of those before it.

What no controller has decided yet cannot be foretold (pods that are still to come, a load balancer's address); that is
said instead (``forecast_notes``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.kubectl.edits import Edit
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error
from agent.cli.kubectl.forecast_notes import notes_of
from agent.cli.kubectl.objects import Obj
from agent.cli.kubectl.prediction import FOLLOWED, Known, know, predict, would_undo
from agent.config import Config, Paths, read_resolved
from agent.controllers.addresspool import Pool
from agent.kube.informer import Key
from agent.proxy.options import Options
from rules.effects import NO_EFFECT, Effect, diff_frontends
from rules.policy import Frontends, resolve_frontends
from rules.policy.addresses import parse_network
from rules.snapshot import ServiceName, Settings

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster

COLLECTIONS = {
    "Node": "/api/v1/nodes",
    "Service": "/api/v1/services",
    "Pod": "/api/v1/pods",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/endpointslices",
}
UNKNOWN_NETWORK = "assumed: the proxy does not know the pod network (if it does, name it with --cluster-cidr)"
WRITTEN_BACK = "a controller keeps this slice and writes it back: no lasting effect on traffic"


@dataclass(frozen=True, slots=True)
class Told:
    """What is said of one edit. ``notes``: what is known beyond the packets, or cannot be known yet."""

    edit: Edit
    effects: tuple[Effect, ...] = ()
    notes: tuple[str, ...] = ()

    def render(self) -> str:
        """Indented lines. A sentence about a Service that is not the object itself begins with its name."""
        own = ServiceName(self.edit.namespace, self.edit.name) if self.edit.kind == "Service" else None
        lines = [
            f"  {e.impact.value} {f'{e.service}: ' if e.service not in (own, None) else ''}{e}" for e in self.effects
        ]
        return "\n".join([*lines, *(f"    {note}" for note in self.notes)] or [f"    {NO_EFFECT}"])

    def as_json(self) -> Obj:
        return {
            "object": str(self.edit.target),
            "namespace": self.edit.target.namespace,
            "done": self.edit.done,
            "effects": [
                {
                    "service": str(effect.service) if effect.service else None,
                    "impact": effect.impact.name.lower(),
                    "sentence": effect.sentence,
                    "field": effect.field,
                }
                for effect in self.effects
            ],
            "notes": list(self.notes),
        }


def is_followed(edit: Edit) -> bool:
    """Whether an edit of this kind is followed to the packets; another group's Service is not one."""
    return FOLLOWED.get(edit.kind) == edit.group


class Forecast:
    """Tells of one edit after the other. ``assumptions``: what had to be taken for granted."""

    def __init__(self, known: Known, node: str, settings: Settings, *, problems: Sequence[str] = ()) -> None:
        self.node, self.settings = node, settings
        self.assumptions = (*(() if settings.cluster_cidrs else (UNKNOWN_NETWORK,)), *problems)
        self.known = known
        self.frontends = self._resolve(known)

    @property
    def heading(self) -> str:
        network = ", ".join(self.settings.cluster_cidrs)
        return f"on node {self.node}" + (f" (pod network {network}):" if network else ":")

    def tell(self, edit: Edit) -> Told:
        """What this edit does, once controllers have done their part. Raises KubectlError for an unreadable object."""
        key = Key(edit.namespace, edit.name)
        try:
            notes = tuple(notes_of(self.known, edit))
            if not is_followed(edit) or edit.done == "unchanged":
                return Told(edit, notes=notes)
            after = predict(self.known, edit.kind, key, edit.after)
        except ValueError as error:
            raise client_error(f"cannot foretell what {edit.target} does to traffic: {error}") from error
        if edit.kind == "EndpointSlice" and would_undo(self.known, after, key):
            return Told(edit, notes=(*notes, WRITTEN_BACK))
        frontends = self._resolve(after)
        effects = diff_frontends(self.frontends, frontends)
        self.known, self.frontends = after, frontends
        return Told(edit, effects, notes)

    def _resolve(self, known: Known) -> Frontends:
        return resolve_frontends(known.snapshot(self.node, self.settings))


def open_forecast(cluster: Cluster, *, node_name: str | None, cluster_cidrs: Sequence[str]) -> Forecast:
    """What the API says now, and how the proxy of the node is set up. Raises KubectlError."""
    config = read_config(Path(cluster.kubeconfig))
    known, problems = know({kind: cluster.get(path).get("items") or [] for kind, path in COLLECTIONS.items()})
    node = choose_node(node_name, config.node_name if config else None, [key.name for key in known.nodes])
    settings = Options.from_config(config).settings if config else Settings()
    if cluster_cidrs:
        settings = replace(settings, cluster_cidrs=tuple(_checked(cidr) for cidr in cluster_cidrs))
    pool = Pool.of_node(config) if config else None
    return Forecast(replace(known, pool=pool), node, settings, problems=problems)


def read_config(kubeconfig: Path) -> Config | None:
    """How the podwire node with this kubeconfig is set up; None if it is no node's, or unreadable for us.

    A node's kubeconfig lies in its state directory, and its resolved configuration is found from there.
    """
    file = Paths(kubeconfig.absolute().parent).resolved_config
    try:
        return read_resolved(file)
    except (FileNotFoundError, PermissionError):
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise client_error(f"cannot read how the node is set up, from {file}: {error}") from error


def choose_node(given: str | None, own: str | None, names: Sequence[str]) -> str:
    """``--node-name``, this podwire node, or the only one there is. Raises KubectlError."""
    wanted = given or own
    listed = ", ".join(sorted(names)) or "none"
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None:
        raise client_error(f"on which node? Name it with --node-name; there are: {listed}")
    if wanted not in names:
        raise client_error(f'there is no node "{wanted}" (--node-name); there are: {listed}')
    return wanted


def know_endpoints(cluster: Cluster, forecast: Forecast, edit: Edit) -> None:
    """A Service without a selector may be served by Endpoints of its name; all of a cluster's are not worth a look."""
    if edit.kind != "Service" or not edit.after or (edit.after.get("spec") or {}).get("selector"):
        return
    key = Key(edit.namespace, edit.name)
    if key in forecast.known.endpoints:
        return
    try:
        found = cluster.get(f"/api/v1/namespaces/{key.namespace}/endpoints/{key.name}")
    except ApiError as error:
        if not error.not_found:
            raise
        return
    try:
        forecast.known = forecast.known.with_object("Endpoints", key, found)
    except ValueError as error:
        raise client_error(f"cannot read Endpoints {key}: {error}") from error


def _checked(cidr: str) -> str:
    try:
        return str(parse_network(cidr))
    except ValueError as error:
        raise client_error(f"cannot use --cluster-cidr {cidr}: {error}") from error


class Teller:
    """Prints: each object's line as kubectl words it and what it does, or (``-o json``, ``-o yaml``) all at the end."""

    def __init__(self, cluster: Cluster, mode: str, *, node_name: str | None, cluster_cidrs: Sequence[str]) -> None:
        if mode not in ("", "json", "yaml"):
            raise KubectlError(f"error: --dry-run=dataplane knows no output format {mode!r}: json, yaml, or none")
        self._cluster, self._mode = cluster, mode
        self._forecast = open_forecast(cluster, node_name=node_name, cluster_cidrs=cluster_cidrs)
        self._told: list[Told] = []
        if not mode:
            click.echo("\n  ".join([self._forecast.heading, *self._forecast.assumptions]))

    def tell(self, edit: Edit) -> None:
        know_endpoints(self._cluster, self._forecast, edit)
        told = self._forecast.tell(edit)
        self._told.append(told)
        if not self._mode:
            click.echo(told.render())

    def finish(self) -> None:
        if self._mode:
            click.echo(self._render(), nl=False)

    def _render(self) -> str:
        from agent.cli.kubectl.objects import go_json
        from agent.cli.kubectl.yamltext import dump_document

        whole = {
            "node": self._forecast.node,
            "assumptions": list(self._forecast.assumptions),
            "objects": [told.as_json() for told in self._told],
        }
        return go_json(whole, indent=4) + "\n" if self._mode == "json" else dump_document(whole)
