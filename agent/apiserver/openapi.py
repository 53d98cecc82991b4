"""OpenAPI v3, made from the table of kinds and the models: ``kubectl explain`` shows it, ``kubectl apply`` needs it.

kubectl reads the index, then the document of the group and version it needs:

- ``explain`` prints the descriptions of the schemas;
- ``create`` and ``apply`` look whether the kind's PATCH takes ``fieldValidation`` (then the server checks fields, with
  better messages) and ``dryRun``;
- ``apply`` computes its strategic merge patch from ``x-kubernetes-patch-strategy`` and ``-merge-key`` of list fields.

Each document's URL carries a hash of its content, so that clients may keep it as long as they like.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from lightkube.models import autoscaling_v1, core_v1, meta_v1, policy_v1

from agent.apiserver.discovery import SERVED, version
from agent.apiserver.models import PATCH_MERGES, Type, description_of, fields_of
from agent.apiserver.registry import JSON, SUBRESOURCES, Kind

PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
# What subresources exchange where it is not the object itself.
SUBRESOURCE_MODELS: dict[str, type[Any]] = {
    "binding": core_v1.Binding,
    "eviction": policy_v1.Eviction,
    "scale": autoscaling_v1.Scale,
}
META = "io.k8s.apimachinery.pkg.apis.meta.v1"
SCALARS: dict[str, tuple[str, JSON]] = {
    "quantity": (
        "io.k8s.apimachinery.pkg.api.resource.Quantity",
        {
            "description": "An amount with a suffix: 100m, 1.5, 64Mi, 2G.",
            "oneOf": [{"type": "string"}, {"type": "number"}],
        },
    ),
    "int-or-string": (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        {
            "description": "A number, or a name that stands for one.",
            "format": "int-or-string",
            "oneOf": [{"type": "integer"}, {"type": "string"}],
        },
    ),
    "time": (f"{META}.Time", {"description": "A time as in RFC 3339.", "type": "string", "format": "date-time"}),
    "microtime": (
        f"{META}.MicroTime",
        {"description": "A time as in RFC 3339, to the microsecond.", "type": "string", "format": "date-time"},
    ),
    "any": (f"{META}.FieldsV1", {"description": "Fields in the form of a trie.", "type": "object"}),
}
PATCH_SCHEMA = (f"{META}.Patch", {"description": "A patch in the form its Content-Type names.", "type": "object"})


# kubectl asks for version 2 only to check a ``kind: List`` itself, and only as protobuf (k8s.io/kubectl,
# pkg/util/openapi). It skips kinds that the document does not hold, and the server checks each item in any case. So the
# document says which version it is, and no more: field 1 of openapi.v2.Document (gnostic), "swagger", a string.
OPENAPI_V2 = b"\x0a\x032.0"
OPENAPI_V2_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"  # "@v1.0" would be no media type


def openapi_v3(path: str) -> JSON | None:
    """The document at ``/openapi/v3`` (the index) or ``/openapi/v3/api/v1`` and the like; None: no such path."""
    rest = path.strip("/").removeprefix("openapi/v3").strip("/")
    if not path.strip("/").startswith("openapi/v3"):
        return None
    if not rest:
        return _index()
    return _document(rest) if rest in _roots() else None


def _roots() -> dict[str, list[Kind]]:
    """``api/v1`` and the like, with their kinds."""
    roots: dict[str, list[Kind]] = {}
    for kind in SERVED:
        roots.setdefault(kind.root.strip("/"), []).append(kind)
    return roots


@cache
def _index() -> JSON:
    paths = {}
    for root in _roots():
        digest = hashlib.sha256(json.dumps(_document(root), sort_keys=True).encode()).hexdigest()
        paths[root] = {"serverRelativeURL": f"/openapi/v3/{root}?hash={digest.upper()}"}
    return {"paths": paths}


@cache
def _document(root: str) -> JSON:
    kinds = _roots()[root]
    paths: JSON = {}
    for kind in kinds:
        paths.update(_paths(kind))
    return {
        "openapi": "3.0.0",
        "info": {"title": "podwire", "version": version()["gitVersion"]},
        "paths": paths,
        "components": {"schemas": _schemas(kinds)},
    }


# Paths

ON_COLLECTIONS = (("get", "list"), ("post", "create"), ("delete", "deletecollection"))
ON_OBJECTS = (("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete"))
ON_SUBRESOURCES = (("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch"))


def _paths(kind: Kind) -> JSON:
    """The collection, one object, and the object's subresources."""
    scope = "/namespaces/{namespace}" if kind.namespaced else ""
    collection = f"{kind.root}{scope}/{kind.plural}"
    found: JSON = {}
    if kind.namespaced and "list" in kind.verbs:
        found[f"{kind.root}/{kind.plural}"] = {"get": _operation(kind, "list", everywhere=True)}
    found[collection] = _operations(kind, ON_COLLECTIONS, [])
    if "get" in kind.verbs:
        found[f"{collection}/{{name}}"] = _operations(kind, ON_OBJECTS, ["name"])
    for name in sorted(kind.subresources):
        wanted = SUBRESOURCES[name].verbs
        item: JSON = {method: _operation(kind, verb, sub=name) for method, verb in ON_SUBRESOURCES if verb in wanted}
        found[f"{collection}/{{name}}/{name}"] = item | {"parameters": _path_parameters(kind, ["name"])}
    return found


def _operations(kind: Kind, verbs: Iterable[tuple[str, str]], names: list[str]) -> JSON:
    operations: JSON = {method: _operation(kind, verb) for method, verb in verbs if verb in kind.verbs}
    return operations | {"parameters": _path_parameters(kind, names)}


ACTIONS = {"create": "post", "update": "put"}


def _operation(kind: Kind, verb: str, *, sub: str = "", everywhere: bool = False) -> JSON:
    model = SUBRESOURCE_MODELS.get(sub, kind.model)
    entry = SUBRESOURCES[sub] if sub else None
    gvk = {
        "group": entry.group if entry and entry.group else kind.group,
        "version": entry.version if entry and entry.version else kind.version,
        "kind": entry.kind if entry and entry.kind else kind.kind,
    }
    operation: JSON = {
        "operationId": _operation_id(kind, verb, sub, everywhere=everywhere),
        "tags": [kind.root.strip("/").replace("/", "_")],
        "parameters": [_query(name) for name in QUERIES[verb]],
        "responses": {"200": _body(_response(kind, verb, model))},
        "x-kubernetes-action": ACTIONS.get(verb, verb),
        "x-kubernetes-group-version-kind": gvk,
    }
    if verb in ("create", "update"):
        operation["requestBody"] = _body(_reference(schema_name(model)))
    if verb == "patch":
        content = {name: {"schema": _reference(PATCH_SCHEMA[0])} for name in PATCHES}
        operation["requestBody"] = {"description": "the patch", "required": True, "content": content}
    return operation


def _operation_id(kind: Kind, verb: str, sub: str, *, everywhere: bool) -> str:
    group = "".join(part.capitalize() for part in (kind.group or "core").removesuffix(".k8s.io").split("."))
    scope = "Namespaced" if kind.namespaced and not everywhere else ""
    suffix = "ForAllNamespaces" if everywhere else ""
    return f"{verb}{group}{kind.version.upper()}{scope}{kind.kind}{sub.capitalize()}{suffix}"


def _response(kind: Kind, verb: str, model: type[Any]) -> JSON:
    if verb == "list":
        return _reference(schema_name(_list_model(kind)))
    if verb in ("delete", "deletecollection"):
        return _reference(schema_name(meta_v1.Status))
    return _reference(schema_name(model))


def _body(schema: JSON) -> JSON:
    return {"description": "OK", "content": {"application/json": {"schema": schema}}}


WRITE = ("dryRun", "fieldManager", "fieldValidation", "pretty")
DELETE = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy", "pretty")
SELECT = ("labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "resourceVersionMatch")
QUERIES: dict[str, tuple[str, ...]] = {
    "get": ("pretty",),
    "list": (*SELECT, "allowWatchBookmarks", "sendInitialEvents", "timeoutSeconds", "watch", "pretty"),
    "create": WRITE,
    "update": WRITE,
    "patch": (*WRITE, "force"),
    "delete": DELETE,
    "deletecollection": (*SELECT, *DELETE),
}
# name -> (type, description)
QUERY_TYPES: dict[str, tuple[str, str]] = {
    "allowWatchBookmarks": ("boolean", "Whether a watch may send BOOKMARK events, which tell how far it has come."),
    "continue": ("string", "Where to go on with a list, from the metadata of the page before."),
    "dryRun": ("string", "With All, everything is done but storing the result."),
    "fieldManager": ("string", "The name of whoever makes this change."),
    "fieldSelector": ("string", "Only objects with these values in these fields: status.phase=Running."),
    "fieldValidation": ("string", "What to do about unknown fields: Ignore, Warn or Strict."),
    "force": ("boolean", "Whether to take over fields of other managers."),
    "gracePeriodSeconds": ("integer", "How long the object may take to end."),
    "labelSelector": ("string", "Only objects with these labels: app=web,tier in (a,b)."),
    "limit": ("integer", "The greatest number of objects in one page."),
    "orphanDependents": ("boolean", "Deprecated: use propagationPolicy."),
    "pretty": ("string", "With true, the answer is indented."),
    "propagationPolicy": ("string", "What becomes of dependents: Orphan, Background or Foreground."),
    "resourceVersion": ("string", "The version at which to look, or after which to watch."),
    "resourceVersionMatch": ("string", "How resourceVersion is meant: Exact or NotOlderThan."),
    "sendInitialEvents": ("boolean", "Whether a watch begins with everything there is."),
    "timeoutSeconds": ("integer", "When to end a watch."),
    "watch": ("boolean", "Follow changes instead of listing."),
}


def _query(name: str) -> JSON:
    kind, description = QUERY_TYPES[name]
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": True}}


def _path_parameters(kind: Kind, names: list[str]) -> list[JSON]:
    names = ["namespace", *names] if kind.namespaced else names
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


# Schemas


def schema_name(model: type[Any]) -> str:
    """``io.k8s.api.core.v1.Service``: upstream's name of a model."""
    group, _, of_version = model.__module__.rpartition(".")[2].rpartition("_")
    return f"{META}.{model.__name__}" if group == "meta" else f"io.k8s.api.{group}.{of_version}.{model.__name__}"


def _reference(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_model(kind: Kind) -> type[Any]:
    found: type[Any] = getattr(importlib.import_module(kind.model.__module__), kind.list_kind)
    return found


def _schemas(kinds: Iterable[Kind]) -> JSON:
    """Every schema that can be reached from the kinds."""
    gvks: dict[type[Any], JSON] = {}
    for kind in kinds:
        gvks[kind.model] = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        if "list" in kind.verbs:
            gvks[_list_model(kind)] = {"group": kind.group, "version": kind.version, "kind": kind.list_kind}
        for name in kind.subresources & SUBRESOURCE_MODELS.keys():
            entry = SUBRESOURCES[name]
            own = {"group": entry.group or kind.group, "version": entry.version or kind.version, "kind": entry.kind}
            gvks[SUBRESOURCE_MODELS[name]] = own
    found: JSON = {PATCH_SCHEMA[0]: PATCH_SCHEMA[1]} | dict(SCALARS.values())
    for model in _reachable([*gvks, meta_v1.Status, meta_v1.DeleteOptions]):
        schema = _schema(model)
        if model in gvks:
            schema["x-kubernetes-group-version-kind"] = [gvks[model]]
        found[schema_name(model)] = schema
    return dict(sorted(found.items()))


def _reachable(models: Iterable[type[Any]]) -> set[type[Any]]:
    seen: set[type[Any]] = set()
    waiting = list(models)
    while waiting:
        model = waiting.pop()
        if model not in seen:
            seen.add(model)
            waiting += [found for field in fields_of(model).values() if (found := _model_of(field.type))]
    return seen


def _model_of(kind: Type) -> type[Any] | None:
    return _model_of(kind.item) if kind.item else kind.model


def _schema(model: type[Any]) -> JSON:
    properties: JSON = {}
    for name, field in fields_of(model).items():
        schema = _type_schema(field.type)
        if "$ref" in schema:  # OpenAPI 3.0 ignores whatever stands beside a $ref
            schema = {"allOf": [schema]}
        properties[name] = {"description": field.description} | schema | _merge(model, name)
    schema = {"description": description_of(model), "type": "object", "properties": properties}
    required = [name for name, field in fields_of(model).items() if field.required]
    return schema | ({"required": required} if required else {})


def _merge(model: type[Any], name: str) -> JSON:
    merge = PATCH_MERGES.get((model.__name__, name))
    if merge is None:
        return {}
    key = {"x-kubernetes-patch-merge-key": merge.key} if merge.key else {}
    return {"x-kubernetes-patch-strategy": merge.strategy} | key


def _type_schema(kind: Type) -> JSON:
    match kind.shape:
        case "struct":
            assert kind.model is not None
            return _reference(schema_name(kind.model))
        case "list":
            assert kind.item is not None
            return {"type": "array", "items": _item_schema(kind.item)}
        case "map":
            assert kind.item is not None
            return {"type": "object", "additionalProperties": _item_schema(kind.item)}
        case shape if shape in SCALARS:
            return _reference(SCALARS[shape][0])
        case shape:
            return {"type": shape}


def _item_schema(kind: Type) -> JSON:
    schema = _type_schema(kind)
    return {"allOf": [schema]} if "$ref" in schema else schema
