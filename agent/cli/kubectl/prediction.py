"""What an edit leads to: objects as they are, an edit, and the objects as controllers will leave them. Pure.

The endpoints of a Service that is new, or whose selector or ports change, do not exist yet. They are worked out from
the pods by the very functions that the controllers decide with (``agent.controllers.membership`` and its neighbours),
so that what is foretold is what will be written. Where a controller would write what it would have written anyway, the
slices that are there are left as they are, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from agent.controllers import endpointslices, mirroring
from agent.controllers.addresspool import Pool, held_addresses, is_ours, resolve_assignment
from agent.controllers.endpoint_objects import MANAGED_BY, Endpoints
from agent.controllers.membership import resolve_families, resolve_members
from agent.controllers.objects import Node, Object, Pod, Service, decoder
from agent.controllers.slices import Content, group_by_ports
from agent.kube.informer import Key
from agent.kube.selectors import matches_map
from agent.proxy.decode import OwnedSlice, decode_node, decode_service, decode_slice
from rules import snapshot
from rules.snapshot import ServiceName, Settings, Snapshot

Obj = dict[str, Any]
MANAGERS = (endpointslices.MANAGER, mirroring.MANAGER)


@dataclass(frozen=True, slots=True)
class BothWays:
    """A Service as the proxy reads it, and as controllers do."""

    proxied: snapshot.Service
    controlled: Service


@dataclass(frozen=True, slots=True)
class KnownSlice:
    """An EndpointSlice, and which controller keeps it ("": none that we know of)."""

    found: OwnedSlice
    manager: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """The objects that decide about traffic, by namespace and name. ``pool``: load balancer addresses to give away."""

    services: Mapping[Key, BothWays] = field(default_factory=dict)
    slices: Mapping[Key, KnownSlice] = field(default_factory=dict)
    pods: Mapping[Key, Pod] = field(default_factory=dict)
    nodes: Mapping[Key, Node] = field(default_factory=dict)
    endpoints: Mapping[Key, Endpoints] = field(default_factory=dict)
    proxied_nodes: Mapping[Key, snapshot.Node] = field(default_factory=dict)
    pool: Pool | None = None

    def with_object(self, kind: str, key: Key, obj: Obj | None) -> Known:
        """With one object as it is then (None: deleted), and nothing else changed. Raises ValueError if unreadable."""
        values = _decode(kind, obj) if obj is not None else dict.fromkeys(_READERS[kind])
        fields: dict[str, Any] = {name: _put(getattr(self, name), key, value) for name, value in values.items()}
        return replace(self, **fields)

    def selecting(self, namespace: str, labels: Mapping[str, str]) -> list[Key]:
        """The Services whose selector chooses pods with these labels."""
        return [
            key
            for key, service in self.services.items()
            if key.namespace == namespace and matches_map(service.controlled.spec.selector, labels)
        ]

    def snapshot(self, node: str, settings: Settings) -> Snapshot:
        """What the proxy of a node is given."""
        slices: dict[ServiceName, tuple[snapshot.EndpointSlice, ...]] = {}
        for key in sorted(self.slices):
            found = self.slices[key].found
            if found.service is not None:
                slices[found.service] = (*slices.get(found.service, ()), found.value)
        services = {service.proxied.name: service.proxied for service in self.services.values()}
        return Snapshot(self.proxied_nodes.get(Key("", node), snapshot.Node(node)), settings, services, slices)


def know(objects: Mapping[str, Iterable[Obj]]) -> tuple[Known, tuple[str, ...]]:
    """Objects by kind as values, and what is wrong with those that cannot be read."""
    fields: dict[str, dict[Key, Any]] = {name: {} for readers in _READERS.values() for name in readers}
    problems: list[str] = []
    for kind, found in objects.items():
        for obj in found:
            key = key_of(obj)
            try:
                for name, value in _decode(kind, obj).items():
                    fields[name][key] = value
            except ValueError as error:
                problems.append(f"{kind} {key} cannot be read, and is left out: {error}")
    return Known(**dict[str, Any](fields)), tuple(problems)


def key_of(obj: Obj) -> Key:
    return Key(obj["metadata"].get("namespace") or "", obj["metadata"]["name"])


def predict(known: Known, kind: str, key: Key, obj: Obj | None) -> Known:
    """The objects after an edit, once controllers have done their part. Raises ValueError if ``obj`` is unreadable."""
    if kind == "Service" and obj is not None:
        obj, _ = assign(known, key, obj)
    edited = known.with_object(kind, key, obj)
    for service in _touched(known, edited, kind, key):
        future = _kept(edited, service)
        if future != _kept(known, service):
            own = {k: s for k, s in edited.slices.items() if not _is_kept_for(s, service)}
            edited = replace(edited, slices={**own, **future})
    return edited


def assign(known: Known, key: Key, obj: Obj) -> tuple[Obj, tuple[str, ...]]:
    """A Service with the addresses that the load balancer controller gives it, and why it does not have more."""
    service = decoder(Service)(msgspec.json.encode(obj))
    if known.pool is None or not is_ours(service, known.pool):
        return obj, ()

    def others(address: str) -> list[Service]:
        rest = (both.controlled for other, both in known.services.items() if other != key)
        return [service for service in rest if address in held_addresses(service)]

    assignment = resolve_assignment(service, known.pool, others)
    ingress = [{"ip": address, "ipMode": "VIP"} for address in assignment.addresses]
    return {**obj, "status": {"loadBalancer": {"ingress": ingress}}}, assignment.problems


def would_undo(before: Known, after: Known, key: Key) -> bool:
    """Whether a controller that keeps this slice would undo what was done to it."""
    found = before.slices.get(key) or after.slices.get(key)
    owner = found.found.service if found is not None else None
    return found is not None and found.manager in MANAGERS and owner is not None and bool(_kept(after, Key(*owner)))


def _touched(before: Known, after: Known, kind: str, key: Key) -> Iterable[Key]:
    """The Services whose slices may follow from the edit."""
    if kind in ("Service", "Endpoints"):
        return (key,)
    if kind == "Pod":
        labels = [known.pods[key].metadata.labels for known in (before, after) if key in known.pods]
        return dict.fromkeys(service for each in labels for service in after.selecting(key.namespace, each))
    return tuple(after.services) if kind == "Node" else ()


def _kept(known: Known, key: Key) -> dict[Key, KnownSlice]:
    """The slices that controllers keep for a Service, given these objects."""
    both = known.services.get(key)
    if both is None:
        return {}
    service = both.controlled
    rendered = _selected(known, service) if service.selects else _mirrored(known, service)
    found: dict[Key, KnownSlice] = {}
    for number, body in enumerate(rendered, 1):
        body["metadata"]["name"] = f"{service.metadata.name}-{number}"
        found[Key(key.namespace, f"{service.metadata.name} (foretold {number})")] = _slice(msgspec.json.encode(body))
    return found


def _selected(known: Known, service: Service) -> Iterator[Obj]:
    """What the EndpointSlice controller makes of the pods."""
    chosen = [
        pod
        for key, pod in known.pods.items()
        if key.namespace == service.metadata.namespace and matches_map(service.spec.selector, pod.metadata.labels)
    ]
    for family in resolve_families(service):
        members = resolve_members(service, chosen, known.nodes, family=family)
        for ports, endpoints in group_by_ports((member.endpoint, member.ports) for member in members).items():
            content = Content(None, ports, tuple(endpoints))
            yield endpointslices.render_slice(service, content, family=family, trigger=None)


def _mirrored(known: Known, service: Service) -> Iterator[Obj]:
    """What the mirroring controller makes of Endpoints that somebody wrote by hand."""
    found = known.endpoints.get(service.metadata.key)
    if found is None or not mirroring.should_mirror(service, found):
        return
    for family in ("IPv4", "IPv6"):
        for ports, endpoints in group_by_ports(mirroring.resolve_mirrored(found, family)).items():
            yield mirroring.render_mirror(found, Content(None, ports, tuple(endpoints)), family)


def _is_kept_for(found: KnownSlice, service: Key) -> bool:
    return found.manager in MANAGERS and found.found.service == ServiceName(*service)


def _slice(data: bytes) -> KnownSlice:
    labels = decoder(Object)(data).metadata.labels
    return KnownSlice(decode_slice(data), labels.get(MANAGED_BY, ""))


def _service(data: bytes) -> BothWays:
    return BothWays(decode_service(data), decoder(Service)(data))


def _proxied_node(data: bytes) -> snapshot.Node:
    return decode_node(data).node


# How each kind is read, by the field of Known that keeps it.
_READERS: Mapping[str, Mapping[str, Callable[[bytes], Any]]] = {
    "Service": {"services": _service},
    "EndpointSlice": {"slices": _slice},
    "Endpoints": {"endpoints": decoder(Endpoints)},
    "Pod": {"pods": decoder(Pod)},
    "Node": {"nodes": decoder(Node), "proxied_nodes": _proxied_node},
}
FOLLOWED = {kind: "discovery.k8s.io" if kind == "EndpointSlice" else "" for kind in _READERS}  # kinds, and their groups


def _decode(kind: str, obj: Obj) -> dict[str, Any]:
    data = msgspec.json.encode(obj)
    return {name: read(data) for name, read in _READERS[kind].items()}


def _put(known: Mapping[Key, Any], key: Key, value: Any) -> dict[Key, Any]:
    rest = {other: kept for other, kept in known.items() if other != key}
    return rest if value is None else {**rest, key: value}
