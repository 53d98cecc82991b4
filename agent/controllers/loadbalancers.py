"""The load balancer controller: addresses from the node's pool for Services of type LoadBalancer.

``reconcile(service)`` asks ``addresspool`` what the Service is to have and writes it to ``status.loadBalancer``, upon
the object as it was seen or not at all: what somebody else changed meanwhile is looked at again first. One worker, so
that each decision sees the one before; what was written and is not yet seen in the cache is remembered until it is.

A Service that could not be given all it should have is looked at again when any address becomes free.
"""

from __future__ import annotations

import logging

from agent.controllers.addresspool import Assignment, Pool, held_addresses, is_ours, resolve_assignment
from agent.controllers.caches import Caches, Index
from agent.controllers.consistency import LOOK_AGAIN, Expectations
from agent.controllers.objects import Service
from agent.controllers.runner import Controller
from agent.kube import rest
from agent.kube.client import Client
from agent.kube.events import Recorder, Ref
from agent.kube.informer import Change, Key

log = logging.getLogger(__name__)
NAME = "load-balancer-controller"


class LoadBalancers:
    """Keeps the pool. Must be made before the informers run, so that it hears of every address."""

    def __init__(self, client: Client, caches: Caches, recorder: Recorder, pool: Pool) -> None:
        self._client, self._services, self._recorder, self._pool = client, caches.services, recorder, pool
        self._holders = Index(caches.services, held_addresses)
        self._expectations = Expectations[Key](caches.services)
        self._given: dict[str, Key] = {}  # address: who got it, until the cache shows it
        self._told: dict[Key, tuple[str, ...]] = {}  # what is wrong with those that wait
        self.controller = Controller("load-balancers", self.reconcile, workers=1)
        caches.services.subscribe(self._changed)

    async def reconcile(self, key: Key) -> None:
        if not self._expectations.fulfilled(key):
            self.controller.queue.add_after(key, LOOK_AGAIN)
            return
        self._given = {address: holder for address, holder in self._given.items() if holder != key}
        service = self._services.cache.get(key)
        if service is None or not is_ours(service, self._pool):
            self._told.pop(key, None)
            return
        assignment = resolve_assignment(service, self._pool, lambda address: self._others(key, address))
        if set(assignment.addresses) != set(held_addresses(service)):
            await self._write(key, service, assignment.addresses)
        self._tell(key, service, assignment)

    def _others(self, key: Key, address: str) -> list[Service]:
        """The Services beside ``key`` that hold an address, as far as the cache knows and as was just decided."""
        found = {service.metadata.key: service for service in self._holders.find(address)}
        holder = self._given.get(address)
        if holder is not None and holder in self._services.cache:
            found[holder] = self._services.cache[holder]
        return [service for holder, service in found.items() if holder != key]

    async def _write(self, key: Key, service: Service, addresses: tuple[str, ...]) -> None:
        meta = {"uid": service.metadata.uid, "resourceVersion": service.metadata.resource_version}
        ingress = [{"ip": address, "ipMode": "VIP"} for address in addresses]
        body = {"metadata": meta, "status": {"loadBalancer": {"ingress": ingress}}}
        path = f"/api/v1/namespaces/{key.namespace}/services/{key.name}/status"
        try:
            stored = await rest.patch(self._client, path, body)
        except rest.ApiError as error:
            if error.not_found:
                return
            raise
        self._expectations.wrote(key, stored)
        self._given |= dict.fromkeys(addresses, key)
        log.info("service %s: load balancer address %s", key, ", ".join(addresses) or "taken back")
        if addresses:
            self._recorder.event(_ref(service), "Normal", "IPAllocated", f"Assigned {', '.join(addresses)}")

    def _tell(self, key: Key, service: Service, assignment: Assignment) -> None:
        """An Event when something is wrong, once, until something else is."""
        if not assignment.problems:
            self._told.pop(key, None)
        elif self._told.get(key) != assignment.problems:
            self._told[key] = assignment.problems
            message = f"cannot assign a load balancer address: {'; '.join(assignment.problems)}"
            self._recorder.event(_ref(service), "Warning", "AllocationFailed", message)

    def _changed(self, change: Change[Service]) -> None:
        old = set(held_addresses(change.old)) if change.old is not None else set()
        new = set(held_addresses(change.new)) if change.new is not None else set()
        if old == new and change.old is not None and change.new is not None and _asks(change.old) == _asks(change.new):
            return
        self.controller.queue.add(change.key)
        for address in new - old:  # may be somebody's who now has to give it up
            for other in self._holders.find(address):
                self.controller.queue.add(other.metadata.key)
        if old - new:
            for waiting in self._told:
                self.controller.queue.add(waiting)


def _asks(service: Service) -> object:
    """What of a Service matters here, beside the addresses it has."""
    return (service.metadata.uid, service.metadata.deletion_timestamp, service.spec, service.status)


def _ref(service: Service) -> Ref:
    meta = service.metadata
    return Ref("Service", meta.namespace, meta.name, uid=meta.uid)
