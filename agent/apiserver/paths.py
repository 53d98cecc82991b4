"""From a URL path to what it means: which kind, which namespace, which object, which part of it.

The shapes are those of apiserver's request info (endpoints/request/requestinfo.go)::

    /api/v1/PLURAL                                  /apis/GROUP/VERSION/PLURAL
    /api/v1/PLURAL/NAME[/SUBRESOURCE]
    /api/v1/namespaces/NAMESPACE/PLURAL[/NAME[/SUBRESOURCE]]
    /api/v1/namespaces/NAME[/SUBRESOURCE]           the namespace itself
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.apiserver.registry import REVIEWS, Kind, find_kind

NAMESPACE_SUBRESOURCES = ("status", "finalize")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about. Empty ``namespace``: cluster-scoped, or all namespaces. Empty ``name``: a collection."""

    kind: Kind
    namespace: str
    name: str
    subresource: str

    @property
    def prefix(self) -> str:
        """The store's prefix of the collection."""
        return f"{self.kind.storage}/{self.namespace}/" if self.namespace else f"{self.kind.storage}/"

    @property
    def key(self) -> str:
        """The store's key of the object."""
        return self.prefix + self.name


def parse_path(path: str) -> Target | None:
    """The target of ``/api/...`` and ``/apis/...``; None: there is no such path."""
    match path.strip("/").split("/"):
        case ["api", version, *rest]:
            return _parse_rest("", version, rest)
        case ["apis", group, version, *rest] if group:
            return _parse_rest(group, version, rest)
    return None


def _parse_rest(group: str, version: str, rest: list[str]) -> Target | None:
    namespace = ""
    if not all(rest):
        return None
    if len(rest) >= 3 and rest[0] == "namespaces" and not (len(rest) == 3 and rest[2] in NAMESPACE_SUBRESOURCES):
        _, namespace, *rest = rest
    if not 1 <= len(rest) <= 3:
        return None
    plural, name, subresource = (*rest, "", "")[:3]
    kind = find_kind(group, version, plural) or _find_review(group, version, plural)
    if kind is None or (namespace and not kind.namespaced) or (subresource and subresource not in kind.subresources):
        return None
    if kind.namespaced and name and not namespace:
        return None
    return Target(kind, namespace, name, subresource)


def _find_review(group: str, version: str, plural: str) -> Kind | None:
    for kind in REVIEWS:
        if (kind.group, kind.version, kind.plural) == (group, version, plural):
            return kind
    return None
