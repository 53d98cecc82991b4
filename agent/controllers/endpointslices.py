"""The EndpointSlice controller: a Service with a selector, and the pods it chooses, become EndpointSlices.

``reconcile(service)``: the pods there are -> members (``membership``, pure) -> the smallest change (``slices``, pure)
-> a few requests. A pod that becomes ready leads to its Services through an index, and nothing waits for a timer: what
comes in a burst is merged by the queue while an earlier run is under way.

Slices of a Service that is gone are deleted here too, not only by the garbage collector: traffic should stop at once.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from datetime import datetime

from agent.controllers.caches import Caches
from agent.controllers.consistency import LOOK_AGAIN, Expectations
from agent.controllers.endpoint_objects import (
    HEADLESS,
    MANAGED_BY,
    SERVICE_NAME,
    TRIGGER_TIME,
    EndpointSlice,
    Json,
    to_json,
)
from agent.controllers.membership import ZONE, resolve_families, resolve_members
from agent.controllers.objects import Node, Pod, Service
from agent.controllers.runner import Controller
from agent.controllers.slices import Content, diff_slices, group_by_ports
from agent.controllers.triggers import TriggerTimes
from agent.kube import rest
from agent.kube.client import Client
from agent.kube.informer import Change, Key
from agent.telemetry import ENDPOINTS_SAW, SLICE_WRITTEN, Timeline

MANAGER = "endpointslice-controller.k8s.io"
RESERVED = (SERVICE_NAME, MANAGED_BY, HEADLESS)


async def delete_slice(client: Client, expectations: Expectations[Key], key: Key, surplus: EndpointSlice) -> None:
    """Delete this very slice of the Service ``key``; the cache is expected to forget it. Gone already: nothing."""
    meta = surplus.metadata
    path = f"/apis/discovery.k8s.io/v1/namespaces/{meta.namespace}/endpointslices/{meta.name}"
    try:
        await rest.delete(client, path, uid=meta.uid)
    except rest.ApiError as error:
        if not error.not_found:
            raise
    expectations.deleted(key, surplus)


class EndpointSlices:
    """Keeps the slices of every Service that has a selector."""

    def __init__(self, client: Client, caches: Caches, timeline: Timeline) -> None:
        self._client, self._caches, self._timeline = client, caches, timeline
        self._expectations = Expectations[Key](caches.slices)
        self._triggers = TriggerTimes()
        self.controller = Controller("endpointslices", self.reconcile)
        caches.services.subscribe(lambda change: self.controller.queue.add(change.key))
        caches.pods.subscribe(self._pod_changed)
        caches.nodes.subscribe(self._node_changed)
        caches.slices.subscribe(self._slice_changed)

    async def reconcile(self, key: Key) -> None:
        if not self._expectations.fulfilled(key):
            self.controller.queue.add_after(key, LOOK_AGAIN)
            return
        service = self._caches.services.cache.get(key)
        existing = [s for s in self._caches.slices_of(key) if is_managed(s, MANAGER)]
        if service is None or not service.selects:
            self._triggers.forget(key)
            for surplus in existing:
                await delete_slice(self._client, self._expectations, key, surplus)
        elif service.metadata.deletion_timestamp is None:
            if not existing:
                self._timeline.mark(ENDPOINTS_SAW, *key)
            await self._write_all(key, service, existing)

    async def _write_all(self, key: Key, service: Service, existing: list[EndpointSlice]) -> None:
        pods = self._caches.pods_of(service)
        trigger = self._triggers.since_last(key, service, pods)
        families = resolve_families(service)
        ours = [s for s in existing if is_owned_by(s, service) and s.address_type in families]
        for family in families:
            members = resolve_members(service, pods, self._caches.nodes.cache, family=family)
            plan = diff_slices(
                [s for s in ours if s.address_type == family],
                group_by_ports((member.endpoint, member.ports) for member in members),
                labels=slice_labels(service),
            )
            for content in plan.write:
                await self._write(key, render_slice(service, content, family=family, trigger=trigger), content)
            for surplus in plan.delete:
                await delete_slice(self._client, self._expectations, key, surplus)
        for stranger in (s for s in existing if s not in ours):
            await delete_slice(self._client, self._expectations, key, stranger)

    async def _write(self, key: Key, body: Json, content: Content) -> None:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{key.namespace}/endpointslices"
        if content.slice is not None:
            stored = await rest.replace(self._client, f"{path}/{content.slice.metadata.name}", body)
            self._expectations.wrote(key, stored)
            return
        written = time.time()  # before the answer: the proxy's watch may be quicker than it
        try:
            stored = await rest.create(self._client, path, body)
        except rest.ApiError as error:
            if error.namespace_terminating:
                return
            raise
        self._expectations.wrote(key, stored)
        self._timeline.mark(SLICE_WRITTEN, *key, detail=stored["metadata"]["name"], at=written)

    def _pod_changed(self, change: Change[Pod]) -> None:
        for key in services_touched(self._caches, change):
            self.controller.queue.add(key)

    def _node_changed(self, change: Change[Node]) -> None:
        old, new = change.old, change.new
        if old and new and old.metadata.labels.get(ZONE) == new.metadata.labels.get(ZONE):
            return
        for pod in self._caches.pods_by_node.find(change.key.name):
            for service in self._caches.services_of(pod):
                self.controller.queue.add(service.metadata.key)

    def _slice_changed(self, change: Change[EndpointSlice]) -> None:
        for found in (change.old, change.new):
            if found is not None and is_managed(found, MANAGER) and SERVICE_NAME in found.metadata.labels:
                self.controller.queue.add(Key(found.metadata.namespace, found.metadata.labels[SERVICE_NAME]))


def services_touched(caches: Caches, change: Change[Pod]) -> Iterator[Key]:
    """The Services that a pod's change may matter to: those that chose it, and those that choose it now."""
    old, new = change.old, change.new
    if old is not None and new is not None and _relevant(old) == _relevant(new):
        return
    for pod in (old, new):
        if pod is not None:
            yield from (service.metadata.key for service in caches.services_of(pod))


def _relevant(pod: Pod) -> Hashable:
    """What of a pod shows in endpoints."""
    placed = (pod.spec.node_name, pod.spec.hostname, pod.spec.subdomain, *pod.addresses)
    return (tuple(pod.metadata.labels.items()), pod.ready, pod.finished, pod.terminating, *placed)


def is_managed(found: EndpointSlice, manager: str) -> bool:
    return found.metadata.labels.get(MANAGED_BY) == manager and found.metadata.deletion_timestamp is None


def is_owned_by(found: EndpointSlice, service: Service) -> bool:
    """Not left over from an earlier Service of the same name."""
    return any(owner.uid == service.metadata.uid for owner in found.metadata.owner_references)


def slice_labels(service: Service) -> dict[str, str]:
    """The Service's labels, and those that say whose slice this is and who keeps it."""
    labels = {name: value for name, value in service.metadata.labels.items() if name not in RESERVED}
    if service.headless:
        labels[HEADLESS] = ""
    return {**labels, SERVICE_NAME: service.metadata.name, MANAGED_BY: MANAGER}


def render_slice(service: Service, content: Content, *, family: str, trigger: datetime | None) -> Json:
    """The JSON to create or replace a slice with."""
    meta = service.metadata
    owner = {"apiVersion": "v1", "kind": "Service", "name": meta.name, "uid": meta.uid}
    return {
        **slice_body(content, family),
        "metadata": {
            **slice_identity(content, meta.namespace, prefix=meta.name),
            "labels": slice_labels(service),
            "annotations": {TRIGGER_TIME: format_time(trigger)} if trigger is not None else {},
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
    }


def slice_body(content: Content, family: str) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": family,
        "endpoints": [to_json(endpoint) for endpoint in content.endpoints],
        "ports": [to_json(port) for port in content.ports],
    }


def slice_identity(content: Content, namespace: str, *, prefix: str) -> Json:
    """A new slice is named after its Service; an old one is replaced only as it was seen."""
    if content.slice is None:
        return {"namespace": namespace, "generateName": f"{prefix}-"}
    known = content.slice.metadata
    return {"namespace": namespace, "name": known.name, "uid": known.uid, "resourceVersion": known.resource_version}


def format_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if moment.microsecond else "%Y-%m-%dT%H:%M:%SZ")
