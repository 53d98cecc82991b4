"""Informers -> zone: every change is in the answers before the event loop does anything else.

Changing one Service costs microseconds (``records.Index``), so changes are not gathered: the informer's handler puts
each one into the zone at once. The zone says SERVFAIL until all informers have seen a whole list.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from lightkube.resources.core_v1 import Namespace, Pod
from lightkube.resources.core_v1 import Service as ServiceKind
from lightkube.resources.discovery_v1 import EndpointSlice as EndpointSliceKind

from agent.dns.objects import SliceObject, decode_namespace, decode_pod, decode_service, decode_slice
from agent.kube.client import Client
from agent.kube.informer import Change, Informer, Key, resource_path
from agent.telemetry import DNS_SAW, NAME_ANSWERS, Timeline
from dnsserver.metrics import Metrics
from dnsserver.names import Address
from dnsserver.records import Service
from dnsserver.zone import Zone

log = logging.getLogger(__name__)


class Feed:
    """Keeps ``zone`` true to the API. ``run`` until cancelled; ``synced`` is called once, when the zone is whole."""

    def __init__(self, client: Client, zone: Zone, *, timeline: Timeline, metrics: Metrics) -> None:
        self._zone, self._timeline, self._metrics = zone, timeline, metrics
        self._answering: set[Key] = set()  # Services whose name has been seen to answer
        self._services = Informer(client, resource_path(ServiceKind), decode_service)
        self._slices = Informer(client, resource_path(EndpointSliceKind), decode_slice)
        self._namespaces = Informer(client, resource_path(Namespace), decode_namespace)
        self._services.subscribe(self._service)
        self._slices.subscribe(self._slice)
        self._namespaces.subscribe(self._namespace)
        self._pods: Informer[tuple[Address, ...]] | None = None
        if zone.settings.pods == "verified":
            self._pods = Informer(client, resource_path(Pod), decode_pod)
            self._pods.subscribe(self._pod)

    async def run(self, synced: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())
            for informer in self._informers:
                await informer.synced.wait()
            self._zone.synced = True
            for key in self._services.cache:
                self._look(key)
            log.info("synced: %d Services, serial %d", len(self._services.cache), self._zone.index.serial)
            synced()

    @property
    def _informers(
        self,
    ) -> list[Informer[Service] | Informer[SliceObject] | Informer[bool] | Informer[tuple[Address, ...]]]:
        pods = [] if self._pods is None else [self._pods]
        return [self._services, self._slices, self._namespaces, *pods]

    def _service(self, change: Change[Service]) -> None:
        if change.old is None:
            self._timeline.mark(DNS_SAW, change.key.namespace, change.key.name)
        self._zone.index.put_service(change.key.namespace, change.key.name, change.new)
        self._look(change.key)

    def _slice(self, change: Change[SliceObject]) -> None:
        piece = None if change.new is None else change.new.piece
        moved = self._zone.index.put_slice(change.key.namespace, change.key.name, piece)
        if piece is not None:
            key = Key(piece.namespace, piece.service)
            self._look(key)
            if moved:
                self._measure(key, change)

    def _namespace(self, change: Change[bool]) -> None:
        self._zone.index.put_namespace(change.key.name, exists=change.new is not None)

    def _pod(self, change: Change[tuple[Address, ...]]) -> None:
        self._zone.index.put_pod(change.key.namespace, change.key.name, change.new or ())

    def _look(self, key: Key) -> None:
        """Note when a Service's name begins to answer."""
        service = self._services.cache.get(key)
        if service is None:
            self._answering.discard(key)
        elif self._zone.synced and key not in self._answering and self._zone.index.has_records(*key):
            self._answering.add(key)
            self._timeline.mark(NAME_ANSWERS, key.namespace, key.name, detail=_describe(service))

    def _measure(self, key: Key, change: Change[SliceObject]) -> None:
        """As CoreDNS: headless Services only, and only changes that came while we were watching."""
        service = self._services.cache.get(key)
        triggered = None if change.new is None else change.new.triggered
        known = change.old is not None and change.old.triggered == triggered
        if self._zone.synced and service is not None and service.headless and triggered is not None and not known:
            self._metrics.programmed("headless_with_selector", max(0.0, time.time() - triggered))


def _describe(service: Service) -> str:
    if service.external_name is not None:
        return "CNAME"
    return ", ".join(map(str, service.addresses)) or "headless"
