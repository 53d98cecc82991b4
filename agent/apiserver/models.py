"""The models as tables of fields: what lightkube's generated classes know about each kind's JSON.

Read once per class by introspection: JSON name, type, whether it is required, and the description in the docstring.
``schema`` checks objects with it, ``openapi`` publishes it, ``tables`` takes column descriptions from it.

Types are read from the annotations, as written: at run time ``Quantity`` and ``Time`` are no longer distinguishable
from their base types. Two things the models do not know are added here: which maps hold quantities, and how lists are
merged by a strategic merge patch (the ``patchStrategy`` and ``patchMergeKey`` tags of upstream's Go types).
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Shape = Literal[
    "string", "integer", "boolean", "quantity", "time", "microtime", "int-or-string", "any", "struct", "list", "map"
]

_NAMED: Mapping[str, Shape] = {
    "str": "string",
    "int": "integer",
    "bool": "boolean",
    "Quantity": "quantity",
    "Time": "time",
    "MicroTime": "microtime",
    "IntOrString": "int-or-string",
    "FieldsV1": "any",
    "RawExtension": "any",
}

# Maps of quantities; every other map in the models has string values.
_QUANTITY_MAPS = frozenset(
    {"allocatable", "allocatedResources", "capacity", "default", "defaultRequest", "hard", "limits", "max", "min"}
    | {"maxLimitRequestRatio", "overhead", "requests", "used"}
)


@dataclass(frozen=True, slots=True)
class Type:
    """``item`` is the type of a list's items or a map's values, ``model`` the class of a struct."""

    shape: Shape
    item: Type | None = None
    model: type[Any] | None = None


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: Type
    required: bool
    description: str


@dataclass(frozen=True, slots=True)
class Merge:
    """How a strategic merge patch treats a list; ``key`` is the field that identifies an item ("": the item itself)."""

    strategy: str
    key: str = ""


_MERGE = Merge("merge", "name")
_TYPES = Merge("merge", "type")

# (model, field) -> merge; every list not named here is replaced as a whole.
PATCH_MERGES: Mapping[tuple[str, str], Merge] = {
    ("ObjectMeta", "ownerReferences"): Merge("merge", "uid"),
    ("ObjectMeta", "finalizers"): Merge("merge"),
    ("PodSpec", "volumes"): Merge("merge,retainKeys", "name"),
    ("PodSpec", "containers"): _MERGE,
    ("PodSpec", "initContainers"): _MERGE,
    ("PodSpec", "ephemeralContainers"): _MERGE,
    ("PodSpec", "imagePullSecrets"): _MERGE,
    ("PodSpec", "schedulingGates"): _MERGE,
    ("PodSpec", "resourceClaims"): Merge("merge,retainKeys", "name"),
    ("PodSpec", "hostAliases"): Merge("merge", "ip"),
    ("PodSpec", "topologySpreadConstraints"): Merge("merge", "topologyKey"),
    ("Container", "ports"): Merge("merge", "containerPort"),
    ("Container", "env"): _MERGE,
    ("Container", "volumeMounts"): Merge("merge", "mountPath"),
    ("Container", "volumeDevices"): Merge("merge", "devicePath"),
    ("EphemeralContainer", "ports"): Merge("merge", "containerPort"),
    ("EphemeralContainer", "env"): _MERGE,
    ("EphemeralContainer", "volumeMounts"): Merge("merge", "mountPath"),
    ("EphemeralContainer", "volumeDevices"): Merge("merge", "devicePath"),
    ("PodStatus", "conditions"): _TYPES,
    ("PodStatus", "podIPs"): Merge("merge", "ip"),
    ("PodStatus", "hostIPs"): Merge("merge", "ip"),
    ("PodStatus", "resourceClaimStatuses"): Merge("merge,retainKeys", "name"),
    ("ServiceSpec", "ports"): Merge("merge", "port"),
    ("ServiceStatus", "conditions"): _TYPES,
    ("ServiceAccount", "secrets"): _MERGE,
    ("NodeSpec", "podCIDRs"): Merge("merge"),
    ("NodeStatus", "conditions"): _TYPES,
    ("NodeStatus", "addresses"): _TYPES,
    ("NamespaceStatus", "conditions"): _TYPES,
    ("ReplicaSetStatus", "conditions"): _TYPES,
}


def fields_of(model: type[Any]) -> Mapping[str, Field]:
    """The fields of a model by their JSON name."""
    if model not in _FIELDS:
        _FIELDS[model] = _read_fields(model)
    return _FIELDS[model]


_FIELDS: dict[type[Any], Mapping[str, Field]] = {}


def _read_fields(model: type[Any]) -> Mapping[str, Field]:
    docs = _field_docs(_doc(model))
    annotations: dict[str, str] = model.__annotations__
    names = dict(zip(model.__struct_fields__, model.__struct_encode_fields__, strict=True))
    fields = {}
    for attribute, annotation in annotations.items():
        name = attribute.rstrip("_") if names[attribute] == attribute else names[attribute]
        optional = annotation.startswith("Optional[")
        written = annotation.removeprefix("Optional[").removesuffix("]") if optional else annotation
        fields[name] = Field(name, _type(model, name, written), not optional, docs.get(attribute, ""))
    return fields


def description_of(model: type[Any]) -> str:
    """What the model is, from the first part of its docstring."""
    return _flow(_doc(model).split("**parameters**")[0])


def describe(model: type[Any], field: str) -> str:
    return fields_of(model)[field].description


def _type(model: type[Any], name: str, written: str) -> Type:
    """``List[core_v1.Container]``, ``dict``, ``meta_v1.Time``, ``PodSpec`` ... as a Type."""
    if written.startswith("List["):
        return Type("list", item=_type(model, name, written.removeprefix("List[").removesuffix("]")))
    if written == "dict":
        return Type("map", item=Type("quantity" if name in _QUANTITY_MAPS else "string"))
    module, _, last = written.rpartition(".")
    if last in _NAMED:
        return Type(_NAMED[last])
    home = importlib.import_module(f"lightkube.models.{module}" if module else model.__module__)
    return Type("struct", model=getattr(home, last))


def _doc(model: type[Any]) -> str:
    """The docstring without the margin of the source. (Python removes it itself since 3.13.)"""
    return inspect.cleandoc(model.__doc__ or "")


_FIELD_DOC = re.compile(r"^\* \*\*(\w+)\*\* ``[^`]*`` - ?(.*?)(?=^\* \*\*\w+\*\* ``|\Z)", re.S | re.M)


def _field_docs(doc: str) -> dict[str, str]:
    _, _, parameters = doc.partition("**parameters**")
    return {match[1]: _flow(match[2]) for match in _FIELD_DOC.finditer(parameters)}


def _flow(text: str) -> str:
    """Lines that were wrapped become one again; list items and empty lines keep their own."""
    lines: list[str] = []
    for line in textwrap.dedent(text).strip().splitlines():
        bare = line.strip()
        starts_anew = not lines or not bare or not lines[-1] or bare.startswith(("* ", "- "))
        if starts_anew:
            lines.append(bare)
        else:
            lines[-1] = f"{lines[-1]} {bare}"
    return "\n".join(lines)
