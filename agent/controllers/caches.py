"""The caches that controllers share: one informer per kind, and indexes over them.

An index answers "which objects have this property?" without looking at all of them: pods by label, Services by a pair
of their selector. Indexes are subscribed before any controller, so that they are true by the time a controller hears of
a change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from agent.controllers.endpoint_objects import SERVICE_NAME, Endpoints, EndpointSlice
from agent.controllers.objects import Lease, Namespace, Node, Object, Pod, ReplicaSet, Service, decoder
from agent.kube.client import Client
from agent.kube.informer import Change, Informer, Key
from agent.kube.selectors import matches_map

V = TypeVar("V")
T = TypeVar("T")


class Index(Generic[V]):
    """``terms_of`` gives the terms under which a value is found; ``find`` gives the values under a term."""

    def __init__(self, informer: Informer[V], terms_of: Callable[[V], Iterable[Hashable]]) -> None:
        self._terms_of, self._cache = terms_of, informer.cache
        self._keys: defaultdict[Hashable, dict[Key, None]] = defaultdict(dict)
        informer.subscribe(self._change)

    def find(self, term: Hashable) -> list[V]:
        return [self._cache[key] for key in self._keys.get(term, ())]

    def count(self, term: Hashable) -> int:
        return len(self._keys.get(term, ()))

    def _change(self, change: Change[V]) -> None:
        old = set(self._terms_of(change.old)) if change.old is not None else set()
        new = set(self._terms_of(change.new)) if change.new is not None else set()
        for term in old - new:
            self._keys[term].pop(change.key, None)
            if not self._keys[term]:
                del self._keys[term]
        for term in new - old:
            self._keys[term][change.key] = None


class Caches:
    """One informer per kind, and the indexes that several controllers use."""

    def __init__(self, client: Client) -> None:
        self.by_path: dict[str, Informer[Any]] = {}

        def informer(path: str, kind: type[T]) -> Informer[T]:
            made = Informer(client, path, decoder(kind))
            self.by_path[path] = made
            return made

        self.pods = informer("/api/v1/pods", Pod)
        self.services = informer("/api/v1/services", Service)
        self.nodes = informer("/api/v1/nodes", Node)
        self.namespaces = informer("/api/v1/namespaces", Namespace)
        self.endpoints = informer("/api/v1/endpoints", Endpoints)
        self.slices = informer("/apis/discovery.k8s.io/v1/endpointslices", EndpointSlice)
        self.replicasets = informer("/apis/apps/v1/replicasets", ReplicaSet)
        self.leases = informer("/apis/coordination.k8s.io/v1/leases", Lease)
        self.service_accounts = informer("/api/v1/serviceaccounts", Object)
        self.config_maps = informer("/api/v1/configmaps", Object)
        self._pods_by_label = Index(self.pods, _label_terms)
        self._services_by_pair = Index(self.services, _selector_terms)
        self._slices_by_service = Index(self.slices, _service_terms)
        self.pods_by_node = Index(self.pods, lambda pod: [pod.spec.node_name])
        self.orphan_pods = Index(self.pods, lambda pod: [] if pod.metadata.controller else [pod.metadata.namespace])
        self.pods_by_owner = Index(self.pods, lambda pod: [owner.uid for owner in pod.metadata.owner_references])

    def pods_of(self, service: Service) -> list[Pod]:
        """The pods that a Service's selector chooses."""
        namespace, selector = service.metadata.namespace, service.spec.selector
        if not selector:
            return []
        rarest = min(selector.items(), key=lambda pair: self._pods_by_label.count((namespace, *pair)))
        found = self._pods_by_label.find((namespace, *rarest))
        return [pod for pod in found if matches_map(selector, pod.metadata.labels)]

    def services_of(self, pod: Pod) -> Iterator[Service]:
        """The Services whose selector chooses a pod (which need not be in the cache: it may be one that was)."""
        for term in _label_terms(pod):
            for service in self._services_by_pair.find(term):
                if matches_map(service.spec.selector, pod.metadata.labels):
                    yield service

    def slices_of(self, service: Key) -> list[EndpointSlice]:
        """The EndpointSlices that carry a Service's name, whoever manages them."""
        return self._slices_by_service.find(service)


def _label_terms(pod: Pod) -> list[Hashable]:
    return [(pod.metadata.namespace, *pair) for pair in pod.metadata.labels.items()]


def _selector_terms(service: Service) -> list[Hashable]:
    """One pair of the selector: a pod that is chosen has it, so the pod's labels lead here."""
    pairs = sorted(service.spec.selector.items())
    return [(service.metadata.namespace, *pairs[0])] if pairs else []


def _service_terms(found: EndpointSlice) -> list[Hashable]:
    name = found.metadata.labels.get(SERVICE_NAME)
    return [Key(found.metadata.namespace, name)] if name else []
