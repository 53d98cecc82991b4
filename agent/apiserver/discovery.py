"""Discovery: what a client is told about the kinds there are.

Two forms of the same table (``registry``). The old one asks for a document per group and version; the aggregated one
(KEP-3352) gives everything in two. kubectl asks for the new one by a parameter of its Accept header and takes the old
one if it gets that.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable

from agent.apiserver.registry import JSON, KINDS, REVIEWS, SUBRESOURCES, Kind, Subresource

AGGREGATED = re.compile(r"g=apidiscovery\.k8s\.io;v=(v2|v2beta1);as=APIGroupDiscoveryList")
SERVED = KINDS + REVIEWS


def discovery(path: str, accept: str) -> JSON | None:
    """The document at ``/api``, ``/apis``, ``/api/v1``, ``/apis/GROUP`` or ``/apis/GROUP/VERSION``; None: no such path.

    ``accept`` is the request's Accept header: with ``as=APIGroupDiscoveryList``, ``/api`` and ``/apis`` answer with
    aggregated discovery. The answer's Content-Type is ``content_type(path, accept)``.
    """
    match path.strip("/").split("/"):
        case ["api"]:
            return _aggregated([""], wanted) if (wanted := _wanted(accept)) else _core_versions()
        case ["apis"]:
            return _aggregated(_groups(), wanted) if (wanted := _wanted(accept)) else _group_list()
        case ["api", version]:
            return _resources("", version)
        case ["apis", group]:
            return _group(group) if group in _groups() else None
        case ["apis", group, version]:
            return _resources(group, version)
    return None


def content_type(path: str, accept: str) -> str:
    """The Content-Type of the answer of ``discovery``: aggregated discovery names its kind there."""
    wanted = _wanted(accept) if path.strip("/") in ("api", "apis") else None
    return (
        f"application/json;g=apidiscovery.k8s.io;v={wanted};as=APIGroupDiscoveryList" if wanted else "application/json"
    )


def version() -> JSON:
    """The document at ``/version``."""
    return {
        "major": "1",
        "minor": "33",
        "gitVersion": "v1.33.0+podwire",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"python{platform.python_version()}",
        "compiler": platform.python_implementation(),
        "platform": f"linux/{_architecture()}",
    }


def _architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _wanted(accept: str) -> str | None:
    """The first version of aggregated discovery that the client names, or None."""
    found = AGGREGATED.search(accept.replace(" ", ""))
    return found[1] if found else None


def _groups() -> list[str]:
    """Named groups, in the order of the table."""
    return list(dict.fromkeys(kind.group for kind in SERVED if kind.group))


def _versions(group: str) -> list[str]:
    return list(dict.fromkeys(kind.version for kind in SERVED if kind.group == group))


def _core_versions() -> JSON:
    return {
        "kind": "APIVersions",
        "versions": _versions(""),
        "serverAddressByClientCIDRs": [],
    }


def _group_list() -> JSON:
    groups = []
    for name in _groups():
        group = _group(name)
        groups.append({field: group[field] for field in ("name", "versions", "preferredVersion")})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _group(name: str) -> JSON:
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in _versions(name)]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def _resources(group: str, version: str) -> JSON | None:
    kinds = [kind for kind in SERVED if (kind.group, kind.version) == (group, version)]
    if not kinds:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version,
        "resources": [entry for kind in kinds for entry in _entries(kind)],
    }


def _entries(kind: Kind) -> Iterable[JSON]:
    entry: JSON = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    yield entry | _names(kind)
    for sub in _subresources(kind):
        other = {"group": sub.group, "version": sub.version} if sub.group else {}
        yield {
            "name": f"{kind.plural}/{sub.name}",
            "singularName": "",
            "namespaced": kind.namespaced,
            **other,
            "kind": sub.kind or kind.kind,
            "verbs": list(sub.verbs),
        }


def _names(kind: Kind) -> JSON:
    names = {"shortNames": list(kind.short_names), "categories": list(kind.categories)}
    return {field: value for field, value in names.items() if value}


def _subresources(kind: Kind) -> list[Subresource]:
    return [SUBRESOURCES[name] for name in sorted(kind.subresources)]


def _aggregated(groups: Iterable[str], wanted: str) -> JSON:
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{wanted}",
        "metadata": {},
        "items": [_aggregated_group(group) for group in groups],
    }


def _aggregated_group(group: str) -> JSON:
    versions = []
    for version in _versions(group):
        kinds = [kind for kind in SERVED if (kind.group, kind.version) == (group, version)]
        versions.append(
            {"version": version, "freshness": "Current", "resources": [_aggregated_entry(kind) for kind in kinds]}
        )
    return {"metadata": {"name": group} if group else {}, "versions": versions}


def _aggregated_entry(kind: Kind) -> JSON:
    own = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    entry: JSON = {
        "resource": kind.plural,
        "responseKind": own,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
        **_names(kind),
    }
    subresources = [
        {
            "subresource": sub.name,
            "responseKind": {
                "group": sub.group or kind.group,
                "version": sub.version or kind.version,
                "kind": sub.kind or kind.kind,
            },
            "verbs": list(sub.verbs),
        }
        for sub in _subresources(kind)
    ]
    return entry | ({"subresources": subresources} if subresources else {})
