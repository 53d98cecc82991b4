"""The Endpoints controller: keeps the v1 Endpoints object of every Service with a selector.

Proxies and DNS read EndpointSlices; Endpoints are kept for people (`kubectl get endpoints`) and for older programs. The
members are the same (``membership``); ``subsets`` gives them the older form.
"""

from __future__ import annotations

from agent.controllers.caches import Caches
from agent.controllers.consistency import LOOK_AGAIN, Expectations
from agent.controllers.endpoint_objects import HEADLESS, Endpoints, Json, Subset, to_json
from agent.controllers.endpointslices import services_touched
from agent.controllers.membership import resolve_families, resolve_members
from agent.controllers.objects import Node, Pod, Service
from agent.controllers.runner import Controller
from agent.controllers.subsets import limit_addresses, resolve_subsets
from agent.kube import rest
from agent.kube.client import Client
from agent.kube.informer import Change, Key

MANAGED = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"


class EndpointsController:
    """Keeps one Endpoints object per Service that has a selector, under the Service's name."""

    def __init__(self, client: Client, caches: Caches) -> None:
        self._client, self._caches = client, caches
        self._expectations = Expectations[Key](caches.endpoints)
        self._deleted: set[Key] = (
            set()
        )  # Services that went while we watched: their Endpoints go too, whoever made them
        self.controller = Controller("endpoints", self.reconcile)
        caches.services.subscribe(self._service_changed)
        caches.endpoints.subscribe(lambda change: self.controller.queue.add(change.key))
        caches.pods.subscribe(self._pod_changed)
        caches.nodes.subscribe(self._node_changed)

    async def reconcile(self, key: Key) -> None:
        if not self._expectations.fulfilled(key):
            self.controller.queue.add_after(key, LOOK_AGAIN)
            return
        service = self._caches.services.cache.get(key)
        found = self._caches.endpoints.cache.get(key)
        if service is None:
            if found is not None and (key in self._deleted or found.metadata.labels.get(MANAGED) == MANAGER):
                await self._delete(key, found)
            self._deleted.discard(key)
        elif service.selects and service.metadata.deletion_timestamp is None:
            await self._write(key, service, found)

    async def _write(self, key: Key, service: Service, found: Endpoints | None) -> None:
        family = resolve_families(service)[0]
        members = resolve_members(service, self._caches.pods_of(service), self._caches.nodes.cache, family=family)
        subsets = resolve_subsets(members, publish_not_ready=service.spec.publish_not_ready_addresses)
        body = render_endpoints(service, found, subsets)
        if body is None:
            return
        path = f"/api/v1/namespaces/{key.namespace}/endpoints"
        try:
            if found is None:
                stored = await rest.create(self._client, path, body)
            else:
                stored = await rest.replace(self._client, f"{path}/{key.name}", body)
        except rest.ApiError as error:
            if error.namespace_terminating:
                return
            raise
        self._expectations.wrote(key, stored)

    async def _delete(self, key: Key, found: Endpoints) -> None:
        try:
            await rest.delete(
                self._client, f"/api/v1/namespaces/{key.namespace}/endpoints/{key.name}", uid=found.metadata.uid
            )
        except rest.ApiError as error:
            if not error.not_found:
                raise
        self._expectations.deleted(key, found)

    def _service_changed(self, change: Change[Service]) -> None:
        if change.new is None:
            self._deleted.add(change.key)
        else:
            self._deleted.discard(change.key)
        self.controller.queue.add(change.key)

    def _pod_changed(self, change: Change[Pod]) -> None:
        for key in services_touched(self._caches, change):
            self.controller.queue.add(key)

    def _node_changed(self, change: Change[Node]) -> None:
        if change.old is not None and change.new is not None:
            return
        for pod in self._caches.pods_by_node.find(change.key.name):
            for service in self._caches.services_of(pod):
                self.controller.queue.add(service.metadata.key)


def render_endpoints(service: Service, found: Endpoints | None, subsets: tuple[Subset, ...]) -> Json | None:
    """The JSON to write, or None when ``found`` says all this already. Foreign annotations stay."""
    limited, cut = limit_addresses(subsets)
    labels = {**service.metadata.labels, MANAGED: MANAGER}
    labels.pop(HEADLESS, None)
    if service.headless:
        labels[HEADLESS] = ""
    annotations = dict(found.metadata.annotations) if found is not None else {}
    annotations.pop(OVER_CAPACITY, None)
    if cut:
        annotations[OVER_CAPACITY] = "truncated"
    if found is not None and (found.subsets, found.metadata.labels, found.metadata.annotations) == (
        limited,
        labels,
        annotations,
    ):
        return None
    meta = service.metadata
    identity = {"name": meta.name, "namespace": meta.namespace, "labels": labels, "annotations": annotations}
    if found is not None:
        identity.update(uid=found.metadata.uid, resourceVersion=found.metadata.resource_version)
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": identity,
        "subsets": [to_json(subset) for subset in limited],
    }
