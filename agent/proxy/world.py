"""What the informers know, and which Services of it are news.

``take_news`` hands out what changed since it was last asked, as a Snapshot of these Services only: one changed endpoint
must not cost a look at all the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.kube.informer import Change, Key
from agent.proxy.decode import OwnedSlice, OwnNode
from rules.snapshot import EndpointSlice, Node, Service, ServiceName, Settings, Snapshot


class News(NamedTuple):
    """``snapshot`` holds the ``changed`` Services, those of them that are there; None: it holds everything."""

    snapshot: Snapshot
    changed: frozenset[ServiceName] | None


class World:
    """Takes changes, hands out Snapshots. At first everything is news."""

    def __init__(self, node_name: str, settings: Settings) -> None:
        self._node, self._settings = Node(node_name), settings
        self._eligible = True
        self._services: dict[ServiceName, Service] = {}
        self._slices: dict[ServiceName, dict[Key, EndpointSlice]] = {}
        self._ordered: dict[ServiceName, tuple[EndpointSlice, ...]] = {}
        self._changed: set[ServiceName] = set()
        self._all_changed = True

    def take_service(self, change: Change[Service]) -> ServiceName:
        name = ServiceName(*change.key)
        if change.new is None:
            self._services.pop(name, None)
        else:
            self._services[name] = change.new
        self._changed.add(name)
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
        self._changed |= touched
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
        self._all_changed = True
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
        """Everything."""
        return Snapshot(self._node, self._settings, dict(self._services), dict(self._ordered))

    @property
    def has_news(self) -> bool:
        return self._all_changed or bool(self._changed)

    def take_news(self) -> News:
        changed, everything = frozenset(self._changed), self._all_changed
        self._changed, self._all_changed = set(), False
        return News(self.snapshot(), None) if everything else News(self._only(changed), changed)

    def give_back(self, news: News) -> None:
        """Nothing came of it: it is still news."""
        self._changed |= news.changed or set()
        self._all_changed |= news.changed is None

    def _only(self, names: Iterable[ServiceName]) -> Snapshot:
        services = {name: self._services[name] for name in names if name in self._services}
        slices = {name: self._ordered[name] for name in services if name in self._ordered}
        return Snapshot(self._node, self._settings, services, slices)

    def _order(self, name: ServiceName) -> None:
        slices = self._slices[name]
        if slices:
            self._ordered[name] = tuple(slices[key] for key in sorted(slices))
        else:
            del self._slices[name]
            self._ordered.pop(name, None)
