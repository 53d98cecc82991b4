"""What all verbs work with, as one value: the store, admission's memory, the timeline.

Verbs are functions over an ``Api`` and a ``Target``; they know nothing of HTTP. ``app`` reads requests and sends what
they return.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.apiserver import objects
from agent.apiserver.admission import Context
from agent.apiserver.paths import Target
from agent.apiserver.registry import JSON, Kind, find_kind
from agent.apiserver.status import not_found
from agent.apiserver.watchcache import WatchCache
from agent.config import Config
from agent.store import Store, Stored
from agent.telemetry import Timeline


@dataclass(frozen=True, slots=True)
class Api:
    config: Config
    store: Store
    context: Context
    timeline: Timeline
    rendered: WatchCache = field(default_factory=WatchCache)


async def load(store: Store, config: Config, timeline: Timeline) -> Api:
    """An Api over a store: allocations are what the stored Services say."""
    services = kind_of("services")
    page = await store.list(f"{services.storage}/")
    context = Context.load([objects.read(services, item) for item in page.items], config)
    return Api(config, store, context, timeline)


def kind_of(plural: str, group: str = "") -> Kind:
    """A kind that this program itself relies on."""
    kind = find_kind(group, "v1", plural)
    assert kind is not None, f"{plural}.{group} is not registered"
    return kind


async def get_stored(api: Api, target: Target) -> Stored:
    """Raises StatusError 404."""
    stored = await api.store.get(target.key)
    if stored is None:
        raise not_found(target.kind, target.name)
    return stored


async def get_object(api: Api, target: Target) -> JSON:
    """Raises StatusError 404."""
    return objects.read(target.kind, await get_stored(api, target))


async def find_object(api: Api, kind: Kind, namespace: str, name: str) -> JSON | None:
    stored = await api.store.get(Target(kind, namespace, name, "").key)
    return None if stored is None else objects.read(kind, stored)
