"""Which kinds does this API server have? Asked, not assumed: so the garbage collector and the namespace controller work
on every kind there is, ours or another server's.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from agent.kube import rest
from agent.kube.client import Client

EVENTS = ("events",)  # both groups: they own nothing, nobody owns them, and there are many


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: ``prefix`` is ``/api/v1`` or ``/apis/GROUP/VERSION``."""

    prefix: str
    plural: str
    kind: str
    namespaced: bool
    verbs: frozenset[str]

    @property
    def api_version(self) -> str:
        return self.prefix.removeprefix("/apis/").removeprefix("/api/")

    @property
    def collection(self) -> str:
        """All objects of the kind, over all namespaces."""
        return f"{self.prefix}/{self.plural}"

    def path(self, namespace: str, name: str = "") -> str:
        """An object's path, or without ``name`` its collection's within the namespace."""
        scope = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{self.prefix}{scope}/{self.plural}{'/' + name if name else ''}"


class _Entry(msgspec.Struct):
    name: str
    kind: str
    namespaced: bool = False
    verbs: list[str] = []


class _ResourceList(msgspec.Struct):
    resources: list[_Entry] = []


class _Version(msgspec.Struct):
    groupVersion: str


class _Group(msgspec.Struct):
    name: str
    preferredVersion: _Version | None = None
    versions: list[_Version] = []


class _GroupList(msgspec.Struct):
    groups: list[_Group] = []


async def discover(client: Client) -> list[Resource]:
    """Every kind that can be listed, in its group's preferred version. Raises KubeError."""
    groups = msgspec.convert(await rest.get(client, "/apis"), _GroupList).groups
    chosen = [
        group.preferredVersion or group.versions[0] for group in groups if group.preferredVersion or group.versions
    ]
    prefixes = ["/api/v1", *(f"/apis/{version.groupVersion}" for version in chosen)]
    found: list[Resource] = []
    for prefix in prefixes:
        listed = msgspec.convert(await rest.get(client, prefix), _ResourceList)
        found += resolve_resources(prefix, listed)
    return found


def resolve_resources(prefix: str, listed: _ResourceList) -> list[Resource]:
    """The kinds of one group and version; subresources (``pods/log``) are none."""
    return [
        Resource(prefix, entry.name, entry.kind, entry.namespaced, frozenset(entry.verbs))
        for entry in listed.resources
        if "/" not in entry.name and "list" in entry.verbs
    ]
