"""What the informers know, kept in the shape of a Snapshot. Values that do not change stay the same objects."""

from __future__ import annotations

from agent.kube.informer import Change, Key
from agent.proxy.decode import OwnedSlice, OwnNode
from rules.snapshot import EndpointSlice, Node, Service, ServiceName, Settings, Snapshot


class World:
    """Takes changes, hands out Snapshots."""

    def __init__(self, node_name: str, settings: Settings) -> None:
        self._node, self._settings = Node(node_name), settings
        self._eligible = True
        self._services: dict[ServiceName, Service] = {}
        self._slices: dict[ServiceName, dict[Key, EndpointSlice]] = {}
        self._ordered: dict[ServiceName, tuple[EndpointSlice, ...]] = {}

    def take_service(self, change: Change[Service]) -> ServiceName:
        name = ServiceName(*change.key)
        if change.new is None:
            self._services.pop(name, None)
        else:
            self._services[name] = change.new
        return name

    def take_slice(self, change: Change[OwnedSlice]) -> set[ServiceName]:
        """The Services concerned: two, if the slice went from one to another."""
        touched: set[ServiceName] = set()
        if change.old is not None and change.old.service is not None:
            self._slices[change.old.service].pop(change.key, None)
            touched.add(change.old.service)
        if change.new is not None and change.new.service is not None:
            self._slices.setdefault(change.new.service, {})[change.key] = change.new.value
            touched.add(change.new.service)
        for name in touched:
            self._order(name)
        return touched

    def take_node(self, change: Change[OwnNode]) -> bool:
        """Whether something that matters to the rules changed. A Node that is gone is still the one we run on."""
        told = change.new or change.old
        if told is None or told.node.name != self._node.name:
            return False
        self._eligible = change.new is not None and change.new.eligible
        if change.new is None or change.new.node == self._node:
            return False
        self._node = change.new.node
        return True

    @property
    def node_eligible(self) -> bool:
        """Should load balancers still bring new connections to this node? As long as nothing is known: yes."""
        return self._eligible

    def knows(self, name: ServiceName) -> bool:
        """Is the Service known, and a slice of it?"""
        return name in self._services and name in self._slices

    def uid(self, name: ServiceName) -> str:
        return self._services[name].uid if name in self._services else ""

    def snapshot(self) -> Snapshot:
        return Snapshot(self._node, self._settings, dict(self._services), dict(self._ordered))

    def _order(self, name: ServiceName) -> None:
        slices = self._slices[name]
        if slices:
            self._ordered[name] = tuple(slices[key] for key in sorted(slices))
        else:
            del self._slices[name]
            self._ordered.pop(name, None)
