"""The table of kinds: what this API server serves, under which names, and where each is stored.

Everything else here reads this table: routes and verbs (which subresources exist), discovery and OpenAPI (what
clients are told), field selectors (what can be selected by), the store (under which key an object lies). To add a
kind is to add a row here, its strategy in ``admission/strategies`` and, where it deserves columns of its own, a
printer in ``tables``.

One stored object can be served as two kinds: core/v1 Event and events.k8s.io/v1 Event are two spellings of one thing.
Both rows name the same ``storage``; the newer one carries converters. Whoever reads the store calls ``from_storage``,
whoever writes it ``to_storage``; field selectors and everything else work on the kind's own spelling.

Objects are plain JSON (``dict``), stored as sent. ``model`` is the typed class of lightkube: it is for checking fields
and for OpenAPI, never the stored form, because it drops what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lightkube.models import (
    apps_v1,
    authentication_v1,
    authorization_v1,
    coordination_v1,
    core_v1,
    discovery_v1,
    events_v1,
)

JSON = dict[str, Any]
Getter = Callable[[JSON], str]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Subresource:
    """What discovery says of ``plural/name``. An empty ``kind`` means the parent's kind; so do group and version."""

    name: str
    verbs: tuple[str, ...]
    kind: str = ""
    group: str = ""
    version: str = ""


SUBRESOURCES: Mapping[str, Subresource] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Subresource("attach", ("create", "get"), "PodAttachOptions"),
            Subresource("binding", ("create",), "Binding"),
            Subresource("eviction", ("create",), "Eviction", "policy", "v1"),
            Subresource("exec", ("create", "get"), "PodExecOptions"),
            Subresource("finalize", ("update",)),
            Subresource("log", ("get",)),
            Subresource("portforward", ("create", "get"), "PodPortForwardOptions"),
            Subresource("scale", ("get", "patch", "update"), "Scale", "autoscaling", "v1"),
            Subresource("status", ("get", "patch", "update")),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table.

    ``group`` is ``""`` for core. ``storage`` is the first part of the key under which objects are stored.
    ``field_selectors`` maps each supported field to a function from an object to its value as a string.
    ``generation_of`` names the top-level fields whose change raises ``metadata.generation`` (empty: it is not kept).
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    categories: tuple[str, ...]
    namespaced: bool
    model: type
    subresources: frozenset[str]
    verbs: tuple[str, ...]
    field_selectors: Mapping[str, Getter]
    storage: str
    to_storage: Callable[[JSON], JSON]
    from_storage: Callable[[JSON], JSON]
    generation_of: tuple[str, ...]

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``: what objects carry as ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    @property
    def resource(self) -> str:
        """``services`` or ``replicasets.apps``: how messages name the resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def root(self) -> str:
        """``/api/v1`` or ``/apis/apps/v1``: where the kind's paths begin."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


def value_at(obj: Any, path: str) -> Any:
    """The value at a dotted path, or None where a step is missing or is not an object."""
    for step in path.split("."):
        if not isinstance(obj, dict):
            return None
        obj = obj.get(step)
    return obj


def _field(path: str, default: str = "") -> Getter:
    def get(obj: JSON) -> str:
        value = value_at(obj, path)
        if isinstance(value, bool):
            return str(value).lower()
        return default if value is None or value == "" else str(value)

    return get


def _fields(*paths: str, **defaults: str) -> dict[str, Getter]:
    return {path: _field(path) for path in paths}


def _event_source(event: JSON) -> str:
    """Old recorders fill ``source.component``, new ones ``reportingComponent`` (registry/core/event/strategy.go)."""
    return str(value_at(event, "source.component") or event.get("reportingComponent") or "")


_REFERENCE = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")

POD_FIELDS: dict[str, Getter] = {
    **_fields("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName"),
    **_fields("status.phase", "status.podIP", "status.nominatedNodeName"),
    "spec.hostNetwork": _field("spec.hostNetwork", "false"),
}
EVENT_FIELDS: dict[str, Getter] = {
    **_fields(*(f"involvedObject.{name}" for name in _REFERENCE), "reason", "type", "reportingComponent"),
    "source": _event_source,
}
NEW_EVENT_FIELDS: dict[str, Getter] = _fields(
    *(f"regarding.{name}" for name in _REFERENCE), "reason", "type", "reportingController"
)

# events.k8s.io/v1 name -> core/v1 name of the fields that are only spelled differently
# (apis/core/v1 and apis/events/v1, conversion.go). All others have the same name in both.
_EVENT_NAMES = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}


def _rename(event: JSON, names: Mapping[str, str], api_version: str) -> JSON:
    renamed = {names.get(name, name): value for name, value in event.items()}
    return {**renamed, "apiVersion": api_version}


def event_to_core(event: JSON) -> JSON:
    """An events.k8s.io/v1 Event as core/v1, which is how both are stored."""
    return _rename(event, _EVENT_NAMES, "v1")


def event_from_core(event: JSON) -> JSON:
    """A core/v1 Event as events.k8s.io/v1."""
    return _rename(event, {core: new for new, core in _EVENT_NAMES.items()}, "events.k8s.io/v1")


def _same(obj: JSON) -> JSON:
    return obj


def _kind(
    model: type,
    plural: str,
    *,
    group: str = "",
    short: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    namespaced: bool = True,
    subresources: tuple[str, ...] = (),
    verbs: tuple[str, ...] = VERBS,
    fields: Mapping[str, Getter] | None = None,
    storage: str | None = None,
    to_storage: Callable[[JSON], JSON] = _same,
    from_storage: Callable[[JSON], JSON] = _same,
    generation_of: tuple[str, ...] = (),
) -> Kind:
    name = model.__name__
    common = _fields("metadata.name", *(("metadata.namespace",) if namespaced else ()))
    return Kind(
        group=group,
        version="v1",
        kind=name,
        plural=plural,
        singular=name.lower(),
        short_names=short,
        categories=categories,
        namespaced=namespaced,
        model=model,
        subresources=frozenset(subresources),
        verbs=verbs,
        field_selectors=MappingProxyType({**common, **(fields or {})}),
        storage=storage if storage is not None else f"{group}/{plural}".lstrip("/"),
        to_storage=to_storage,
        from_storage=from_storage,
        generation_of=generation_of,
    )


POD_SUBRESOURCES = ("attach", "binding", "eviction", "exec", "log", "portforward", "status")

KINDS: tuple[Kind, ...] = (
    _kind(core_v1.ConfigMap, "configmaps", short=("cm",)),
    _kind(core_v1.Endpoints, "endpoints", short=("ep",)),
    _kind(core_v1.Event, "events", short=("ev",), fields=EVENT_FIELDS),
    _kind(
        core_v1.Namespace,
        "namespaces",
        short=("ns",),
        namespaced=False,
        subresources=("finalize", "status"),
        fields=_fields("status.phase"),
        verbs=tuple(verb for verb in VERBS if verb != "deletecollection"),
    ),
    _kind(
        core_v1.Node,
        "nodes",
        short=("no",),
        namespaced=False,
        subresources=("status",),
        fields={"spec.unschedulable": _field("spec.unschedulable", "false")},
    ),
    _kind(
        core_v1.Pod,
        "pods",
        short=("po",),
        categories=("all",),
        subresources=POD_SUBRESOURCES,
        fields=POD_FIELDS,
        generation_of=("spec",),
    ),
    _kind(core_v1.Secret, "secrets", fields=_fields("type")),
    _kind(core_v1.ServiceAccount, "serviceaccounts", short=("sa",)),
    _kind(
        core_v1.Service,
        "services",
        short=("svc",),
        categories=("all",),
        subresources=("status",),
        fields=_fields("spec.clusterIP", "spec.type"),
    ),
    _kind(
        apps_v1.ReplicaSet,
        "replicasets",
        group="apps",
        short=("rs",),
        categories=("all",),
        subresources=("scale", "status"),
        fields={"status.replicas": _field("status.replicas", "0")},
        generation_of=("spec",),
    ),
    _kind(coordination_v1.Lease, "leases", group="coordination.k8s.io"),
    _kind(
        discovery_v1.EndpointSlice,
        "endpointslices",
        group="discovery.k8s.io",
        generation_of=("addressType", "endpoints", "ports"),
    ),
    _kind(
        events_v1.Event,
        "events",
        group="events.k8s.io",
        short=("ev",),
        fields=NEW_EVENT_FIELDS,
        storage="events",
        to_storage=event_to_core,
        from_storage=event_from_core,
    ),
)

# Answered, never stored: posting one asks a question, and the reply is the object with its status filled in.
REVIEWS: tuple[Kind, ...] = tuple(
    _kind(model, f"{model.__name__.lower()}s", group=group, namespaced=False, verbs=("create",), storage="")
    for model, group in (
        (authentication_v1.SelfSubjectReview, "authentication.k8s.io"),
        (authorization_v1.SelfSubjectAccessReview, "authorization.k8s.io"),
        (authorization_v1.SelfSubjectRulesReview, "authorization.k8s.io"),
    )
)

_BY_PATH = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
_BY_STORAGE = {kind.storage: kind for kind in reversed(KINDS)}


def find_kind(group: str, version: str, plural: str) -> Kind | None:
    """The kind behind ``/apis/GROUP/VERSION/.../PLURAL`` (group ``""``: ``/api/VERSION``), or None."""
    return _BY_PATH.get((group, version, plural))


def find_by_storage(storage: str) -> Kind | None:
    """The kind in whose spelling objects under this storage key are stored."""
    return _BY_STORAGE.get(storage)
