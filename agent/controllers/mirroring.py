"""The mirroring controller: Endpoints written by hand, for a Service without a selector, become EndpointSlices too.

Proxies and DNS read slices only, so without this an administrator's Endpoints (a database outside, say) would lead
nowhere. Endpoints with the label ``endpointslice.kubernetes.io/skip-mirror: "true"`` and those of leader elections are
left alone, as are Services with a selector: their slices come from their pods.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from agent.controllers.caches import Caches
from agent.controllers.consistency import LOOK_AGAIN, Expectations
from agent.controllers.endpoint_objects import (
    HEADLESS,
    MANAGED_BY,
    SERVICE_NAME,
    SKIP_MIRROR,
    TRIGGER_TIME,
    Address,
    Conditions,
    Endpoint,
    Endpoints,
    EndpointSlice,
    Json,
    Port,
    Subset,
)
from agent.controllers.endpointslices import delete_slice, is_managed, slice_body, slice_identity
from agent.controllers.membership import address_family, canonical_address
from agent.controllers.objects import Service
from agent.controllers.runner import Controller
from agent.controllers.slices import Content, Ports, diff_slices, group_by_ports
from agent.kube import rest
from agent.kube.client import Client
from agent.kube.informer import Change, Key

MANAGER = "endpointslicemirroring-controller.k8s.io"
LEADER = "control-plane.alpha.kubernetes.io/leader"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MAX_ADDRESSES = 1000  # per subset, as upstream's --mirroring-max-endpoints-per-subset


class Mirroring:
    """Keeps slices that say what hand-made Endpoints say."""

    def __init__(self, client: Client, caches: Caches) -> None:
        self._client, self._caches = client, caches
        self._expectations = Expectations[Key](caches.slices)
        self.controller = Controller("endpointslice-mirroring", self.reconcile)
        caches.endpoints.subscribe(lambda change: self.controller.queue.add(change.key))
        caches.services.subscribe(lambda change: self.controller.queue.add(change.key))
        caches.slices.subscribe(self._slice_changed)

    async def reconcile(self, key: Key) -> None:
        if not self._expectations.fulfilled(key):
            self.controller.queue.add_after(key, LOOK_AGAIN)
            return
        service = self._caches.services.cache.get(key)
        found = self._caches.endpoints.cache.get(key)
        existing = [s for s in self._caches.slices_of(key) if is_managed(s, MANAGER)]
        if found is None or not should_mirror(service, found):
            for surplus in existing:
                await delete_slice(self._client, self._expectations, key, surplus)
            return
        for family in ("IPv4", "IPv6"):
            await self._mirror(key, found, [s for s in existing if s.address_type == family], family)

    async def _mirror(self, key: Key, found: Endpoints, existing: list[EndpointSlice], family: str) -> None:
        desired = group_by_ports(resolve_mirrored(found, family))
        if not desired:
            for surplus in existing:
                await delete_slice(self._client, self._expectations, key, surplus)
            return
        plan = diff_slices(existing, desired, labels=mirror_labels(found))
        for content in plan.write:
            await self._write(key, render_mirror(found, content, family), content)
        for surplus in plan.delete:
            await delete_slice(self._client, self._expectations, key, surplus)

    async def _write(self, key: Key, body: Json, content: Content) -> None:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{key.namespace}/endpointslices"
        if content.slice is not None:
            stored = await rest.replace(self._client, f"{path}/{content.slice.metadata.name}", body)
        else:
            stored = await rest.create(self._client, path, body)
        self._expectations.wrote(key, stored)

    def _slice_changed(self, change: Change[EndpointSlice]) -> None:
        for found in (change.old, change.new):
            if found is not None and is_managed(found, MANAGER) and SERVICE_NAME in found.metadata.labels:
                self.controller.queue.add(Key(found.metadata.namespace, found.metadata.labels[SERVICE_NAME]))


def should_mirror(service: Service | None, found: Endpoints) -> bool:
    """Whether these Endpoints are somebody's own, for a Service that has no selector."""
    meta = found.metadata
    if service is None or service.spec.selector or meta.deletion_timestamp is not None:
        return False
    return meta.labels.get(SKIP_MIRROR) != "true" and LEADER not in meta.annotations


def resolve_mirrored(found: Endpoints, family: str) -> Iterator[tuple[Endpoint, Ports]]:
    """The endpoints of one family, with their ports. Addresses that are none are left out."""
    for subset in found.subsets:
        ports = _ports(subset)
        listed = [(a, True) for a in subset.addresses] + [(a, False) for a in subset.not_ready_addresses]
        for address, ready in listed[:MAX_ADDRESSES]:
            if _is_address(address.ip) and address_family(address.ip) == family:
                yield _endpoint(address, ready=ready), ports


def mirror_labels(found: Endpoints) -> dict[str, str]:
    labels = {name: value for name, value in found.metadata.labels.items() if name != HEADLESS}
    return {**labels, SERVICE_NAME: found.metadata.name, MANAGED_BY: MANAGER}


def render_mirror(found: Endpoints, content: Content, family: str) -> Json:
    meta = found.metadata
    annotations = {n: v for n, v in meta.annotations.items() if n not in (TRIGGER_TIME, LAST_APPLIED)}
    owner = {"apiVersion": "v1", "kind": "Endpoints", "name": meta.name, "uid": meta.uid}
    return {
        **slice_body(content, family),
        "metadata": {
            **slice_identity(content, meta.namespace, prefix=meta.name),
            "labels": mirror_labels(found),
            "annotations": annotations,
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
    }


def _ports(subset: Subset) -> Ports:
    return tuple(
        Port(name=p.name, port=p.port, protocol=p.protocol or "TCP", app_protocol=p.app_protocol) for p in subset.ports
    )


def _endpoint(address: Address, *, ready: bool) -> Endpoint:
    return Endpoint(
        addresses=(canonical_address(address.ip),),
        conditions=Conditions(ready=ready),
        hostname=address.hostname or None,
        node_name=address.node_name,
        target_ref=address.target_ref,
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(canonical_address(text))
    except ValueError:
        return False
    return True
