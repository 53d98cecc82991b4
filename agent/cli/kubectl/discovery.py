"""What the server offers: which words name which resource, and where it lives. Pure, but for the cache's file.

A Catalog is made from the server's discovery documents (the aggregated form, and the older one of a document per group
version) and answers what kubectl's RESTMapper answers: ``po``, ``pod``, ``pods``, ``Pod``, ``replicasets.apps`` and
``rs.v1.apps`` all lead to a Resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind the server serves, at its preferred version."""

    name: str  # plural: replicasets
    singular: str
    kind: str
    group: str
    version: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``replicasets.apps``, ``pods``."""
        return f"{self.name}.{self.group}" if self.group else self.name

    @property
    def qualified_kind(self) -> str:
        """``replicaset.apps``, ``pod``."""
        return f"{self.kind.lower()}.{self.group}" if self.group else self.kind.lower()

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, of an object, or of its subresource; ``None``: all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        middle = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{middle}/{self.name}" + (f"/{name}" if name else "") + (f"/{subresource}" if subresource else "")


@dataclass(frozen=True, slots=True)
class Catalog:
    """All resources, the core group first, then in the server's order of preference."""

    resources: tuple[Resource, ...]

    def find(self, word: str) -> Resource | None:
        """The resource a word on the command line means; None where there is none."""
        name, _, qualifier = word.lower().partition(".")
        version, _, group = qualifier.partition(".")
        for resource in self.resources:
            if name not in (resource.name, resource.singular, resource.kind.lower(), *resource.short_names):
                continue
            if not qualifier or qualifier == resource.group:
                return resource
            if (version, group) == (resource.version, resource.group):
                return resource
        return None

    def in_category(self, word: str) -> tuple[Resource, ...]:
        """The resources of a category such as ``all``."""
        return tuple(resource for resource in self.resources if word in resource.categories)

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        group, _, version = api_version.rpartition("/")
        return next((r for r in self.resources if (r.group, r.version, r.kind) == (group, version, kind)), None)


def parse_aggregated(documents: Iterable[Mapping[str, Any]]) -> Catalog:
    """From APIGroupDiscoveryList documents (``/api`` and ``/apis``)."""
    found = []
    for document in documents:
        for group in document.get("items") or []:
            name = (group.get("metadata") or {}).get("name", "")
            for version in group.get("versions") or []:
                found += [_aggregated(name, version["version"], each) for each in version.get("resources") or []]
    return Catalog(tuple(_preferred(found)))


def _aggregated(group: str, version: str, each: Mapping[str, Any]) -> Resource:
    kind = each.get("responseKind") or {}
    return Resource(
        name=each["resource"],
        singular=each.get("singularResource") or str(kind.get("kind", "")).lower(),
        kind=kind.get("kind", ""),
        group=group,
        version=version,
        namespaced=each.get("scope") == "Namespaced",
        short_names=tuple(each.get("shortNames") or ()),
        categories=tuple(each.get("categories") or ()),
        verbs=tuple(each.get("verbs") or ()),
    )


def parse_resource_lists(documents: Iterable[Mapping[str, Any]]) -> Catalog:
    """From APIResourceList documents (``/api/v1``, ``/apis/apps/v1``, ...), the older form."""
    found = []
    for document in documents:
        group, _, version = str(document["groupVersion"]).rpartition("/")
        found += [_listed(group, version, each) for each in document.get("resources") or [] if "/" not in each["name"]]
    return Catalog(tuple(_preferred(found)))


def _listed(group: str, version: str, each: Mapping[str, Any]) -> Resource:
    return Resource(
        name=each["name"],
        singular=each.get("singularName") or each["kind"].lower(),
        kind=each["kind"],
        group=group,
        version=version,
        namespaced=bool(each.get("namespaced")),
        short_names=tuple(each.get("shortNames") or ()),
        categories=tuple(each.get("categories") or ()),
        verbs=tuple(each.get("verbs") or ()),
    )


def _preferred(found: Sequence[Resource]) -> list[Resource]:
    """The core group first, the others in the server's order; it names preferred versions before others."""
    usable = [resource for resource in found if resource.kind]
    return sorted(usable, key=lambda resource: resource.group != "")


def dump_catalog(catalog: Catalog) -> list[dict[str, Any]]:
    return [asdict(resource) for resource in catalog.resources]


def load_catalog(stored: Sequence[Mapping[str, Any]]) -> Catalog:
    """From ``dump_catalog``'s JSON. Raises TypeError or KeyError where it is from another version of podwire."""
    lists = ("short_names", "categories", "verbs")
    return Catalog(tuple(Resource(**{**each, **{name: tuple(each[name]) for name in lists}}) for each in stored))
